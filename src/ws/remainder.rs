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
                out.extend_from_slice(&message.utf8.to_bytes());
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
        let frame_is_control = frame.as_ref().map(|frame| frame.opcode.is_control());
        let sound = (head.len == 0 || frame.is_none())
            && (frame_is_control != Some(false) || message.is_some())
            && (frame_is_control == Some(true) || control.is_empty());
        sound.then_some(Self { head, frame, message, control, spent: Spent::Nothing })
    }
}

impl Frame {
    fn read(input: &mut &[u8]) -> Option<Self> {
        let [first] = take::<1>(input)?;
        let mask = take::<4>(input)?;
        let left = usize::try_from(u64::from_le_bytes(take::<8>(input)?)).ok()?;
        Some(Self { opcode: Opcode::from_bits(first)?, fin: first & 0x80 != 0, mask, left })
    }
}

impl Message {
    fn read(kind: Kind, input: &mut &[u8]) -> Option<Self> {
        let utf8 = Utf8Stream::from_bytes(take::<4>(input)?)?;
        let len = usize::try_from(u64::from_le_bytes(take::<8>(input)?)).ok()?;
        let bytes = input.split_off(..len)?.to_vec();
        Some(Self { kind, utf8, bytes })
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
