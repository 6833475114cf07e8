//! From an echo's input to its answer, which is made of the input where that lies.
//!
//! In:    received buffers and stashed input of connections to `/echo`.
//! Out:   parts of buffers to be sent back; answers queued, where input and answer differ in place.
//! Never: copies a message that came in one piece and stands alone in its buffer.
//!
//! A client's header is longer than ours by its mask, so an answer fits in front of its payload,
//! and the answers to what came in one receive fit one behind the other.
//!
//! # Invariants
//! - At most one part of a buffer waits for a connection, and nothing stood in its queue before.
//! - What is queued behind a part within the turn (a ping, a close frame) is sent behind it.

use std::ops::Range;

use crate::conn::Phase;
use crate::counters::Counter;
use crate::id::ConnId;
use crate::io::{BufferId, Io};
use crate::payload::{Batch, Payload};
use crate::shard::ingress::{Ended, reason_of};
use crate::shard::{Shard, State};
use crate::ws::encode::{put_frame, reframe};
use crate::ws::{Event, Kind, Opcode};

/// An answer that lies in a received buffer.
#[derive(Debug)]
pub(crate) struct Echo {
    /// Whose.
    conn: ConnId,
    /// Where.
    buffer: BufferId,
    /// Which of the buffer's bytes.
    part: Range<usize>,
}

/// The answers to one piece of input.
#[derive(Debug, Default)]
struct Answer {
    /// What could not be left in its place, and all that came behind it.
    copied: Vec<u8>,
    /// What lies in the input; empty where anything was copied.
    part: Range<usize>,
}

impl Answer {
    /// Moves the frame at the end of `bytes`, whose payload has `len` bytes, behind the others.
    fn leave(&mut self, bytes: &mut [u8], len: usize, opcode: Opcode) {
        let payload_at = bytes.len() - len;
        let start = reframe(bytes, payload_at, opcode);
        if self.part.is_empty() {
            self.part = start..bytes.len();
        } else {
            bytes.copy_within(start.., self.part.end);
            self.part.end += bytes.len() - start;
        }
    }

    /// Appends a frame whose payload does not lie in its place; `before` is the input before it.
    fn copy(&mut self, before: &[u8], payload: &[u8], opcode: Opcode) {
        self.copied.extend_from_slice(&before[std::mem::take(&mut self.part)]);
        put_frame(&mut self.copied, opcode, payload);
    }
}

impl State {
    /// Decodes an echo's input; up to where, if the rest has to wait, and which part of it is now
    /// the answer.
    pub(super) fn decode_echo(
        &mut self,
        id: ConnId,
        bytes: &mut [u8],
    ) -> (Option<usize>, Option<Range<usize>>) {
        let (limit, buffer_bytes) = (self.limits.echo_message_bytes, self.ring.buffer_bytes);
        let Some(conn) = self.conns.get(id) else { return (None, None) };
        if conn.phase != Phase::Open {
            return (None, None);
        }
        if conn.egress.is_some() {
            return (Some(0), None);
        }
        let mut assembler = std::mem::take(&mut conn.assembler);
        let mut answer = Answer::default();
        let mut at = 0;
        let ended = loop {
            if at == bytes.len() {
                break Ended::Whole;
            }
            if answer.copied.len() > at.max(buffer_bytes) {
                // A message that came in pieces, longer than all input here: it goes alone.
                break Ended::Paused(at);
            }
            let (before, rest) = bytes.split_at_mut(at);
            let step = match assembler.decode(rest, limit) {
                Ok(step) => step,
                Err(violation) => break Ended::Over(reason_of(violation.code)),
            };
            at += step.consumed;
            let Some(event) = step.event else { continue };
            let (opcode, payload) = match event {
                Event::Message { kind, bytes } => {
                    self.count_message(bytes.len());
                    (if kind == Kind::Text { Opcode::Text } else { Opcode::Binary }, &*bytes)
                }
                Event::Ping(payload) => (Opcode::Pong, payload),
                Event::Pong(_) => continue,
                Event::Close(payload) => break Ended::Closed(payload.map(|(code, _)| code)),
            };
            if step.in_place && answer.copied.is_empty() {
                let len = payload.len();
                answer.leave(&mut bytes[..at], len, opcode);
            } else {
                answer.copy(before, payload, opcode);
            }
        };
        assembler.settle();
        if let Some(conn) = self.conns.get(id) {
            conn.assembler = assembler;
        }
        let Answer { copied, part } = answer;
        if !copied.is_empty() {
            self.push_own(id, copied);
        }
        (self.conclude(id, ended), (!part.is_empty()).then_some(part))
    }

    /// Queues an answer that must not keep a buffer of the ring, in front of what was queued since.
    pub(super) fn push_answer(&mut self, id: ConnId, bytes: Vec<u8>, part: &Range<usize>) {
        let Some(conn) = self.conns.get(id) else { return };
        let mut segment = Payload::own(Batch { bytes, frames: Vec::new() }).whole();
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        (segment.start, segment.end) = (narrow(part.start), narrow(part.end));
        conn.egress().restore(vec![segment]);
        self.mark_dirty(id);
    }

    fn count_message(&self, bytes: usize) {
        self.count(Counter::messages_in);
        self.counters.add(Counter::message_bytes_in, bytes as u64);
    }
}

impl<I: Io> Shard<I> {
    /// Decodes a received buffer; whether it is kept until the answer in it is sent.
    pub(super) fn feed(&mut self, id: ConnId, buffer: BufferId, len: usize) -> bool {
        // Where buffers are scarce, receiving goes before.
        let is_scarce = self.io.buffers_free() < self.state.buffers / 2;
        let bytes = self.io.buffer(buffer, len);
        let Some(part) = self.state.feed(id, bytes) else { return false };
        if is_scarce {
            self.state.push_answer(id, bytes.to_vec(), &part);
            return false;
        }
        self.state.echoes.push(Echo { conn: id, buffer, part });
        true
    }

    /// Sends this turn's answers out of the buffers in which they lie.
    pub(super) fn send_back(&mut self) {
        let mut echoes = std::mem::take(&mut self.state.echoes);
        for Echo { conn: id, buffer, part } in echoes.drain(..) {
            match self.state.conns.get(id) {
                Some(conn) if conn.egress.is_none() => {
                    self.state.sends += 1;
                    self.state.sent_bytes += part.len() as u64;
                    self.io.send_back(id, buffer, part);
                    continue;
                }
                Some(_) => {
                    let bytes = self.io.buffer(buffer, part.end).to_vec();
                    self.state.push_answer(id, bytes, &part);
                }
                None => {}
            }
            self.io.release(buffer);
        }
        self.state.echoes = echoes;
    }
}
