//! Turns the bytes that a server sends into messages, whole or piece by piece.
//!
//! In:    what receives brought, cut anywhere.
//! Out:   calls of a `Sink`.
//! Never: takes a binary message, since only text is ever sent; copies a message that lies whole in
//!        what was received, or more of a cut one than the sink wants kept.
//!
//! # Invariants
//! - A connection without an incomplete message owns no memory here, but for one that had some.
//! - What the sink is told does not depend on how the bytes were cut.

use super::fault::Fault;
use crate::limits::CONTROL_BYTES_MAX;
use crate::ws::Opcode;

/// Longest header of a server's frame.
const HEADER_BYTES_MAX: usize = 10;
/// Longest message that is waited for.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// What is to be done with messages.
pub trait Sink {
    /// Bytes at the start of a cut message that are kept until its end; the others come as pieces.
    const KEPT: usize;

    /// A message that lay in one piece.
    ///
    /// # Errors
    /// If it is not what was to come.
    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault>;

    /// Bytes of a cut message, behind those that are kept, from this place on.
    ///
    /// # Errors
    /// If they are not what was to come.
    fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault>;

    /// The end of a cut message of `len` bytes.
    ///
    /// # Errors
    /// If it is not what was to come.
    fn last(&mut self, kept: &[u8], len: usize) -> Result<(), Fault>;

    /// A ping, pong or close.
    ///
    /// # Errors
    /// If it was not to come.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault>;
}

/// A message of which not all is there.
#[derive(Debug, Default)]
pub struct Partial {
    /// Of the frame that begins: its header so far.
    header: Vec<u8>,
    /// Of the frame whose header is complete.
    frame: Option<Frame>,
    /// Bytes of it that have not come.
    left: u64,
    /// A message is under way: its next frame continues it.
    within: bool,
    /// Bytes of the message so far, and its first ones.
    len: usize,
    kept: Vec<u8>,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    opcode: Opcode,
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.header.is_empty() && self.frame.is_none() && !self.within
    }
}

/// Takes what one receive brought.
///
/// # Errors
/// What the sink says; what the server did that RFC 6455 does not allow.
pub fn read<S: Sink>(
    partial: &mut Option<Box<Partial>>,
    mut bytes: &[u8],
    sink: &mut S,
) -> Result<(), Fault> {
    if partial.as_ref().is_none_or(|partial| partial.is_idle()) {
        while let Some((frame, at, len)) = header(bytes)? {
            let Some(end) = usize::try_from(len).ok().map(|len| at + len) else { break };
            if end > bytes.len() || !frame.fin || frame.opcode == Opcode::Continuation {
                break;
            }
            if frame.opcode.is_control() {
                sink.control(frame.opcode, &bytes[at..end])?;
            } else {
                sink.whole(&bytes[at..end])?;
            }
            bytes = &bytes[end..];
        }
    }
    if bytes.is_empty() {
        return Ok(());
    }
    let partial = partial.get_or_insert_default();
    while !bytes.is_empty() {
        bytes = partial.take(bytes, sink)?;
    }
    Ok(())
}

impl Partial {
    /// Takes some bytes; the others come back.
    fn take<'a, S: Sink>(&mut self, bytes: &'a [u8], sink: &mut S) -> Result<&'a [u8], Fault> {
        let Some(frame) = self.frame else { return self.take_header(bytes, sink) };
        let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (now, rest) = bytes.split_at(now);
        self.left -= now.len() as u64;
        if frame.opcode.is_control() {
            self.control.extend_from_slice(now);
        } else {
            let kept = now.len().min(S::KEPT.saturating_sub(self.len));
            self.kept.extend_from_slice(&now[..kept]);
            if kept < now.len() {
                sink.piece(self.len + kept, &now[kept..])?;
            }
            self.len += now.len();
        }
        if self.left == 0 {
            self.end_frame(frame, sink)?;
        }
        Ok(rest)
    }

    fn take_header<'a, S: Sink>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut S,
    ) -> Result<&'a [u8], Fault> {
        let before = self.header.len();
        let more = bytes.len().min(HEADER_BYTES_MAX - before);
        self.header.extend_from_slice(&bytes[..more]);
        let Some((frame, at, len)) = header(&self.header)? else { return Ok(&bytes[more..]) };
        self.header.clear();
        let continues = frame.opcode == Opcode::Continuation;
        if !frame.opcode.is_control() && continues != self.within {
            return Err(Fault::new("the server mixed up the fragments of its messages"));
        }
        self.within |= !frame.opcode.is_control();
        (self.frame, self.left) = (Some(frame), len);
        if len == 0 {
            self.end_frame(frame, sink)?;
        }
        Ok(&bytes[at - before..])
    }

    fn end_frame<S: Sink>(&mut self, frame: Frame, sink: &mut S) -> Result<(), Fault> {
        self.frame = None;
        if frame.opcode.is_control() {
            sink.control(frame.opcode, &self.control)?;
            self.control.clear();
        } else if frame.fin {
            sink.last(&self.kept, self.len)?;
            self.within = false;
            self.len = 0;
            self.kept.clear();
        }
        Ok(())
    }
}

/// The header at the start of `bytes`, its length and that of the payload.
#[inline]
fn header(bytes: &[u8]) -> Result<Option<(Frame, usize, u64)>, Fault> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let opcode = Opcode::from_bits(*first);
    let (Some(opcode), 0) = (opcode, first & 0x70) else {
        return Err(Fault::new(format!("the server sent a frame that begins with {first:#04x}")));
    };
    if opcode == Opcode::Binary {
        return Err(Fault::new("the server sent a binary message: what was sent to it is text"));
    }
    let frame = Frame { fin: first & 0x80 != 0, opcode };
    let (at, len) = match *second {
        short @ 0..=125 => (2, u64::from(short)),
        126 => match rest.first_chunk::<2>() {
            Some(len) => (4, u64::from(u16::from_be_bytes(*len))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (10, u64::from_be_bytes(*len)),
            None => return Ok(None),
        },
        // RFC 6455 section 5.1: "A server MUST NOT mask any frames that it sends to the client."
        _ => return Err(Fault::new("the server sent a masked frame")),
    };
    let bound = if opcode.is_control() { CONTROL_BYTES_MAX as u64 } else { MESSAGE_BYTES_MAX };
    if len > bound || opcode.is_control() && !frame.fin {
        return Err(Fault::new(format!("the server sent a {opcode:?} frame of {len} bytes")));
    }
    Ok(Some((frame, at, len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::encode::put_frame;

    /// Writes down what it is told, one line a message.
    #[derive(Default)]
    struct Scribe {
        lines: Vec<(Opcode, Vec<u8>)>,
        pieces: Vec<u8>,
        wholes: usize,
    }

    impl Sink for Scribe {
        const KEPT: usize = 3;

        fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
            self.wholes += 1;
            self.lines.push((Opcode::Text, payload.to_vec()));
            Ok(())
        }

        fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
            assert_eq!(at, 3 + self.pieces.len());
            self.pieces.extend_from_slice(bytes);
            Ok(())
        }

        fn last(&mut self, kept: &[u8], len: usize) -> Result<(), Fault> {
            let message = [kept, &std::mem::take(&mut self.pieces)].concat();
            assert_eq!(message.len(), len);
            self.lines.push((Opcode::Text, message));
            Ok(())
        }

        fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
            self.lines.push((opcode, payload.to_vec()));
            Ok(())
        }
    }

    fn read_cut(bytes: &[u8], cuts: &[usize]) -> Scribe {
        let (mut partial, mut scribe, mut from) = (None, Scribe::default(), 0);
        for &to in cuts.iter().chain([&bytes.len()]) {
            read(&mut partial, &bytes[from..to], &mut scribe).unwrap();
            from = to;
        }
        assert!(partial.is_none_or(|partial| partial.is_idle()));
        scribe
    }

    #[test]
    fn every_cut_tells_the_same() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, Opcode::Text, b"hello");
        put_frame(&mut bytes, Opcode::Ping, b"?");
        put_frame(&mut bytes, Opcode::Text, &[b'b'; 200]);
        bytes.extend_from_slice(b"\x01\x02ab\x89\x00\x00\x01c\x80\x02de");
        put_frame(&mut bytes, Opcode::Text, b"");
        put_frame(&mut bytes, Opcode::Close, b"\x03\xe8");
        let whole = read_cut(&bytes, &[]);
        let lines = &whole.lines;
        assert_eq!(lines.len(), 7);
        assert_eq!((lines[0].1.as_slice(), lines[4].1.as_slice()), (&b"hello"[..], &b"abcde"[..]));
        assert_eq!((lines[3].0, lines[6].0), (Opcode::Ping, Opcode::Close));
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                assert_eq!(read_cut(&bytes, &[first, second]).lines, *lines, "{first} {second}");
            }
        }
        let each: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(read_cut(&bytes, &each).lines, *lines);
    }

    #[test]
    fn what_lies_whole_is_not_copied() {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            put_frame(&mut bytes, Opcode::Text, b"hello");
        }
        assert_eq!(read_cut(&bytes, &[]).wholes, 3);
        let cut = read_cut(&bytes, &[3]);
        assert_eq!((cut.wholes, cut.lines.len()), (0, 3));
    }

    #[test]
    fn what_no_server_may_send_is_a_fault() {
        let wrong: [&[u8]; 6] =
            [b"\xc1\x00", b"\x83\x00", b"\x81\x80", b"\x09\x00", b"\x80\x00", b"\x82\x00"];
        for bytes in wrong {
            let read = read(&mut None, bytes, &mut Scribe::default());
            assert!(read.is_err(), "{bytes:02x?}");
        }
        let endless = b"\x81\x7f\x00\x00\x01\x00\x00\x00\x00\x00";
        assert!(read(&mut None, endless, &mut Scribe::default()).is_err());
    }
}
