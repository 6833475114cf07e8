//! Turns pieces of frames into whole ones: what an `Assembler` holds while something is incomplete.
//!
//! In:    input that does not hold a whole unfragmented frame.
//! Out:   `Done`: what is complete, and where it lies.
//! Never: reserves memory for bytes that have not come.
//!
//! # Invariants
//! - `head` holds bytes only while `frame` is `None`.
//! - `message` is `Some` from the first fragment's header to the last fragment's end.
//! - `control` holds bytes only while `frame` is a control frame, or `spent` names them.

use std::ops::Range;

use super::close::Violation;
use super::frame::{HEADER_BYTES_MAX, Header, Opcode, parse_header};
use super::mask::{turn, unmask};
use super::message::{Event, Kind, NOT_UTF8, check_order, check_size};
use super::utf8::Utf8Stream;
use crate::limits;

/// What a call of [`Remainder::assemble`] completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing: the input is used up.
    Nothing,
    /// The message; it lies in the remainder.
    Message,
    /// A control frame; its payload lies in the remainder.
    Control(Opcode),
    /// A control frame that was not cut; its payload lies in the input.
    ControlInPlace(Opcode, Range<usize>),
}

/// What was handed out and is to be dropped before anything else happens.
#[derive(Debug, Default, PartialEq, Eq)]
enum Spent {
    #[default]
    Nothing,
    Message,
    Control,
}

/// Bytes of a header that is not complete yet.
#[derive(Debug, Default)]
struct Head {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
}

/// A frame whose payload is being received.
#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    /// Turned: its first byte belongs to the next byte of the payload.
    mask: [u8; 4],
    /// Bytes of the payload that have not come yet.
    left: usize,
}

/// A message whose end has not come yet.
#[derive(Debug)]
struct Message {
    kind: Kind,
    utf8: Utf8Stream,
    bytes: Vec<u8>,
}

/// Incomplete frames and messages of one connection.
#[derive(Debug, Default)]
pub(super) struct Remainder {
    head: Head,
    frame: Option<Frame>,
    message: Option<Message>,
    control: Vec<u8>,
    spent: Spent,
}

impl Remainder {
    /// Consumes input until something is complete. Nothing may be spent.
    pub(super) fn assemble(
        &mut self,
        input: &mut [u8],
        message_bytes_max: usize,
    ) -> Result<(usize, Done), Violation> {
        let mut at = 0;
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => {
                    let (consumed, header) = self.head.push(&input[at..])?;
                    at += consumed;
                    let Some(header) = header else { return Ok((at, Done::Nothing)) };
                    self.begin_frame(&header, message_bytes_max)?
                }
            };
            let piece = at..at + frame.left.min(input.len() - at);
            at = piece.end;
            unmask(&mut input[piece.clone()], frame.mask, 0);
            frame.mask = turn(frame.mask, piece.len());
            frame.left -= piece.len();
            if frame.opcode.is_control() && frame.left == 0 && self.control.is_empty() {
                return Ok((at, Done::ControlInPlace(frame.opcode, piece)));
            }
            self.collect(&frame, &input[piece], message_bytes_max)?;
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok((at, Done::Nothing));
            }
            if frame.opcode.is_control() {
                self.spent = Spent::Control;
                return Ok((at, Done::Control(frame.opcode)));
            }
            if frame.fin {
                self.end_message()?;
                return Ok((at, Done::Message));
            }
        }
    }

    /// Keeps a piece of a frame's payload.
    fn collect(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        message_bytes_max: usize,
    ) -> Result<(), Violation> {
        if frame.opcode.is_control() {
            append(&mut self.control, piece, limits::CONTROL_BYTES_MAX);
        } else if let Some(message) = &mut self.message {
            // The last fragment tells how long the message becomes.
            let whole = message.bytes.len() + piece.len() + frame.left;
            message.push(piece, if frame.fin { whole } else { message_bytes_max })?;
        }
        Ok(())
    }

    fn begin_frame(
        &mut self,
        header: &Header,
        message_bytes_max: usize,
    ) -> Result<Frame, Violation> {
        check_order(header.opcode, self.message.is_some())?;
        let collected = self.message.as_ref().map_or(0, |message| message.bytes.len());
        check_size(header, collected, message_bytes_max)?;
        match header.opcode {
            Opcode::Text => self.message = Some(Message::new(Kind::Text)),
            Opcode::Binary => self.message = Some(Message::new(Kind::Binary)),
            _ => {}
        }
        Ok(Frame {
            opcode: header.opcode,
            fin: header.fin,
            mask: header.mask,
            left: header.len as usize,
        })
    }

    fn end_message(&mut self) -> Result<(), Violation> {
        self.spent = Spent::Message;
        match &self.message {
            Some(message) => message.utf8.finish().map_err(|_| NOT_UTF8),
            None => Ok(()),
        }
    }

    /// The message that [`Done::Message`] announced.
    pub(super) fn message(&mut self) -> Event<'_> {
        let message = self.message.as_mut().expect("Done::Message says that there is one");
        Event::Message { kind: message.kind, bytes: &mut message.bytes }
    }

    /// The payload that [`Done::Control`] announced.
    pub(super) fn control(&self) -> &[u8] {
        &self.control
    }

    pub(super) fn drop_spent(&mut self) {
        match std::mem::take(&mut self.spent) {
            Spent::Nothing => {}
            Spent::Message => self.message = None,
            Spent::Control => self.control = Vec::new(),
        }
    }

    /// Whether nothing is held; what is spent counts as held.
    pub(super) fn is_empty(&self) -> bool {
        self.head.len == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.control.is_empty()
    }

    /// Whether nothing is held; what is spent does not count.
    pub(super) fn is_settled_empty(&self) -> bool {
        self.head.len == 0 && self.frame.is_none() && self.open_message().is_none()
    }

    /// The message, unless it was handed out already.
    fn open_message(&self) -> Option<&Message> {
        self.message.as_ref().filter(|_| self.spent != Spent::Message)
    }

    pub(super) fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |message| message.bytes.capacity());
        size_of::<Self>() + message + self.control.capacity()
    }
}

impl Head {
    /// Takes bytes until the header is complete; returns how many.
    fn push(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), Violation> {
        let held = usize::from(self.len);
        let taken = input.len().min(HEADER_BYTES_MAX - held);
        self.bytes[held..held + taken].copy_from_slice(&input[..taken]);
        match parse_header(&self.bytes[..held + taken])? {
            Some((header, len)) => {
                self.len = 0;
                Ok((len - held, Some(header)))
            }
            None => {
                self.len = (held + taken) as u8;
                Ok((taken, None))
            }
        }
    }
}

impl Message {
    fn new(kind: Kind) -> Self {
        Self { kind, utf8: Utf8Stream::default(), bytes: Vec::new() }
    }

    fn push(&mut self, piece: &[u8], bytes_max: usize) -> Result<(), Violation> {
        if self.kind == Kind::Text {
            self.utf8.push(piece).map_err(|_| NOT_UTF8)?;
        }
        append(&mut self.bytes, piece, bytes_max);
        Ok(())
    }
}

/// Appends; memory grows by doubling, but not beyond `bytes_max` unless the bytes are there.
fn append(to: &mut Vec<u8>, piece: &[u8], bytes_max: usize) {
    let needed = to.len() + piece.len();
    if needed > to.capacity() {
        let target = (to.capacity() * 2).min(bytes_max).max(needed);
        to.reserve_exact(target - to.len());
    }
    to.extend_from_slice(piece);
}

// The written form: every field in its order, numbers little-endian, absent parts as a zero byte.
impl Remainder {
    /// Appends the state; what is spent is left out.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.head.len);
        out.extend_from_slice(&self.head.bytes[..usize::from(self.head.len)]);
        match &self.frame {
            None => out.push(0),
            Some(frame) => {
                out.push(1);
                out.push(frame.opcode as u8 | if frame.fin { 0x80 } else { 0 });
                out.extend_from_slice(&frame.mask);
                out.extend_from_slice(&(frame.left as u64).to_le_bytes());
            }
        }
        match self.open_message() {
            None => out.push(0),
            Some(message) => {
                out.push(match message.kind {
                    Kind::Text => 1,
                    Kind::Binary => 2,
                });
                out.extend_from_slice(&(message.bytes.len() as u64).to_le_bytes());
                out.extend_from_slice(&message.bytes);
            }
        }
        let control = if self.spent == Spent::Control { &[][..] } else { &self.control };
        out.push(control.len() as u8);
        out.extend_from_slice(control);
    }

    /// Reads what [`Remainder::write`] wrote; `None` for anything else.
    pub(super) fn read(input: &mut &[u8]) -> Option<Self> {
        let mut head = Head::default();
        let head_bytes = take_short(input)?;
        head.bytes.get_mut(..head_bytes.len())?.copy_from_slice(head_bytes);
        head.len = head_bytes.len() as u8;
        let frame = match take::<1>(input)? {
            [0] => None,
            [1] => Some(Frame::read(input)?),
            _ => return None,
        };
        let message = match take::<1>(input)? {
            [0] => None,
            [1] => Some(Message::read(Kind::Text, input)?),
            [2] => Some(Message::read(Kind::Binary, input)?),
            _ => return None,
        };
        let control = take_short(input)?.to_vec();
        let sound = match &frame {
            None => parse_header(head_bytes) == Ok(None) && control.is_empty(),
            Some(frame) if frame.opcode.is_control() => {
                head.len == 0 && frame.left + control.len() <= limits::CONTROL_BYTES_MAX
            }
            Some(_) => head.len == 0 && control.is_empty() && message.is_some(),
        };
        sound.then_some(Self { head, frame, message, control, spent: Spent::Nothing })
    }
}

impl Frame {
    fn read(input: &mut &[u8]) -> Option<Self> {
        let [first] = take::<1>(input)?;
        let mask = take::<4>(input)?;
        let left = usize::try_from(u64::from_le_bytes(take::<8>(input)?)).ok()?;
        let opcode = Opcode::from_bits(first)?;
        // As in a header that was let in: something is left, and no sum with it overflows.
        let sound = (1..=usize::MAX >> 1).contains(&left);
        sound.then_some(Self { opcode, fin: first & 0x80 != 0, mask, left })
    }
}

impl Message {
    fn read(kind: Kind, input: &mut &[u8]) -> Option<Self> {
        let len = usize::try_from(u64::from_le_bytes(take::<8>(input)?)).ok()?;
        let mut message = Self::new(kind);
        // Checked anew, which also brings back the state of the check.
        message.push(input.split_off(..len)?, len).ok()?;
        Some(message)
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

/// Bytes behind a length of one byte.
fn take_short<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [len] = take::<1>(input)?;
    input.split_off(..usize::from(len))
}

#[cfg(test)]
mod tests {
    use super::super::client::{decode_cut, feed, frame};
    use super::super::{Assembler, Opcode};

    fn script() -> Vec<u8> {
        let text = "\u{e9}\u{20ac}\u{1f600}".as_bytes();
        [
            frame(false, Opcode::Text, &text[..1]),
            frame(true, Opcode::Ping, b"ping"),
            frame(true, Opcode::Continuation, &text[1..]),
            frame(true, Opcode::Binary, &[9; 200]),
            frame(false, Opcode::Binary, b"x"),
            frame(true, Opcode::Close, b"\x03\xe8bye"),
        ]
        .concat()
    }

    #[test]
    fn the_state_is_written_down_and_read_back_at_every_byte() {
        let input = script();
        let whole = decode_cut(&input, &[], 1000);
        for cut in 0..=input.len() {
            let mut before = Assembler::default();
            let mut seen = Vec::new();
            let goes_on = feed(&mut before, &input[..cut], 1000, &mut seen);
            let mut written = b"|".to_vec();
            before.write(&mut written);
            written.extend_from_slice(b"behind");
            let mut rest = &written[1..];
            let mut after = Assembler::read(&mut rest).expect("what was written is read");
            assert_eq!(rest, b"behind", "cut at {cut}");
            assert_eq!(after.is_idle(), before.is_idle());
            if goes_on {
                feed(&mut after, &input[cut..], 1000, &mut seen);
            }
            assert_eq!(seen, whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_handed_out_is_not_written_down() {
        for mut input in [
            frame(true, Opcode::Ping, b"ping"),
            frame(true, Opcode::Text, b"text"),
            [frame(false, Opcode::Text, b"te"), frame(true, Opcode::Continuation, b"xt")].concat(),
        ] {
            let mut assembler = Assembler::default();
            let last = input.len() - 1;
            let (first, second) = input.split_at_mut(last);
            assert!(assembler.decode(first, 1000).is_ok_and(|step| step.event.is_none()));
            assert!(assembler.decode(second, 1000).is_ok_and(|step| step.event.is_some()));
            assert!(assembler.is_idle());
            let mut written = Vec::new();
            assembler.write(&mut written);
            assert_eq!(written, [0]);
        }
    }

    #[test]
    fn anything_else_is_refused_and_never_panics() {
        let input = script();
        let mut assembler = Assembler::default();
        feed(&mut assembler, &input[..input.len() - 5], 1000, &mut Vec::new());
        let mut written = Vec::new();
        assembler.write(&mut written);
        for len in 0..written.len() {
            assert!(Assembler::read(&mut &written[..len]).is_none(), "cut at {len}");
        }
        for at in 0..written.len() {
            for value in [0, 1, 2, 3, 14, 15, 126, 255] {
                let mut changed = written.clone();
                changed[at] = value;
                if let Some(mut read) = Assembler::read(&mut &*changed) {
                    feed(&mut read, &input, 1000, &mut Vec::new());
                }
            }
        }
    }
}
