//! Turns received bytes into messages and control frames.
//!
//! In:    what one receive brought, cut anywhere.
//! Out:   `Step`: how much was consumed, and at most one `Event`.
//! Never: answers anything, copies a frame that lies whole in the input, or trusts a length.
//!
//! # Invariants
//! - An assembler is one pointer; it is null unless a frame or a message is incomplete.
//! - The events do not depend on how the bytes were cut.
//! - Held bytes follow what arrived, never what was announced.

use super::close::{Violation, parse_close};
use super::frame::{Header, Opcode, parse_header};
use super::mask::unmask;
use super::remainder::{Done, Remainder};

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8; the assembler has checked it.
    Text,
    /// Any bytes.
    Binary,
}

/// Something complete.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message, its fragments put together.
    Message {
        /// What it is made of.
        kind: Kind,
        /// Its bytes, unmasked.
        bytes: &'a mut [u8],
    },
    /// A ping, to be answered with the same bytes.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The closing handshake, with code and reason where the peer gave any. Whatever follows is
    /// to be ignored.
    Close(Option<(u16, &'a str)>),
}

/// What one call of [`Assembler::decode`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes of the input that are dealt with; at least 1 unless the input was empty.
    pub consumed: usize,
    /// The event that ends there; without one, the whole input was consumed.
    pub event: Option<Event<'a>>,
}

/// What a connection remembers between two receives.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Option<Box<Remainder>>,
}

const _: () = assert!(size_of::<Assembler>() == 8, "an idle connection owns no buffer");

pub(super) const NOT_UTF8: Violation = Violation::utf8("text that is not UTF-8");

impl Assembler {
    /// Consumes input up to and including one event, or all of it.
    ///
    /// `message_bytes_max` bounds a message, all its fragments together.
    ///
    /// # Errors
    /// What the peer did wrong. The connection has to be closed; the assembler is of no more use.
    #[inline]
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'a>, Violation> {
        self.settle();
        if self.partial.is_none() {
            let Some((header, payload_at)) = parse_header(input)? else {
                return self.assemble(input, message_bytes_max);
            };
            check_order(header.opcode, false)?;
            check_size(&header, 0, message_bytes_max)?;
            if header.fin && header.len <= (input.len() - payload_at) as u64 {
                return decode_whole(input, &header, payload_at);
            }
        }
        self.assemble(input, message_bytes_max)
    }

    /// Drops what the last event was borrowed from. Call it when the input is used up.
    #[inline]
    pub fn settle(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.drop_spent();
            if partial.is_empty() {
                self.partial = None;
            }
        }
    }

    /// Bytes of memory held for an incomplete message or frame, for the process's budget.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    /// Whether nothing is incomplete.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.is_settled_empty())
    }

    /// Appends the state, in a form that [`Assembler::read`] understands.
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.partial {
            Some(partial) if !partial.is_settled_empty() => {
                out.push(1);
                partial.write(out);
            }
            _ => out.push(0),
        }
    }

    /// Reads what [`Assembler::write`] wrote, and moves `input` behind it; else `None`.
    #[must_use]
    pub fn read(input: &mut &[u8]) -> Option<Self> {
        let (&tag, rest) = input.split_first()?;
        *input = rest;
        match tag {
            0 => Some(Self::default()),
            1 => Some(Self { partial: Some(Box::new(Remainder::read(input)?)) }),
            _ => None,
        }
    }

    /// The way of whatever is cut or fragmented.
    fn assemble<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'a>, Violation> {
        if input.is_empty() {
            return Ok(Step { consumed: 0, event: None });
        }
        let partial = self.partial.get_or_insert_default();
        let (consumed, done) = partial.assemble(input, message_bytes_max)?;
        let event = match done {
            Done::Nothing => None,
            Done::Message => Some(partial.message()),
            Done::Control(opcode) => Some(control(opcode, partial.control())?),
            Done::ControlInPlace(opcode, range) => Some(control(opcode, &input[range])?),
        };
        Ok(Step { consumed, event })
    }
}

/// The common case: an unfragmented frame that lies whole in the input.
#[inline]
fn decode_whole<'a>(
    input: &'a mut [u8],
    header: &Header,
    payload_at: usize,
) -> Result<Step<'a>, Violation> {
    let consumed = payload_at + header.len as usize;
    let bytes = &mut input[payload_at..consumed];
    unmask(bytes, header.mask, 0);
    let event = match header.opcode {
        Opcode::Text if simdutf8::basic::from_utf8(bytes).is_err() => return Err(NOT_UTF8),
        Opcode::Text => Event::Message { kind: Kind::Text, bytes },
        Opcode::Binary => Event::Message { kind: Kind::Binary, bytes },
        opcode => control(opcode, bytes)?,
    };
    Ok(Step { consumed, event: Some(event) })
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        _ => Event::Close(parse_close(payload)?),
    })
}

/// Whether a frame may come now.
pub(super) fn check_order(opcode: Opcode, message_is_open: bool) -> Result<(), Violation> {
    match opcode {
        // RFC 6455 section 5.4: "A fragmented message consists of a single frame with the FIN bit
        // clear and an opcode other than 0, followed by zero or more frames with the FIN bit clear
        // and the opcode set to 0".
        Opcode::Continuation if !message_is_open => {
            Err(Violation::protocol("a continuation of no message"))
        }
        // RFC 6455 section 5.4: "The fragments of one message MUST NOT be interleaved between the
        // fragments of another message".
        Opcode::Text | Opcode::Binary if message_is_open => {
            Err(Violation::protocol("a new message inside a fragmented one"))
        }
        _ => Ok(()),
    }
}

/// Whether a frame's payload still fits its message, judged before a byte of it has come.
pub(super) fn check_size(
    header: &Header,
    collected: usize,
    message_bytes_max: usize,
) -> Result<(), Violation> {
    let room = message_bytes_max.saturating_sub(collected) as u64;
    if !header.opcode.is_control() && header.len > room {
        return Err(Violation::too_big("a message longer than this server takes"));
    }
    Ok(())
}
