//! From received bytes to rooms: frames, messages, commands.
//!
//! In:    readiness, received buffers, stashed input.
//! Out:   speech in rooms (here or by mail), echoes, pongs, errors to the speaker, ends.
//! Never: sends; whatever is to be sent is queued and marked.
//!
//! # Invariants
//! - A speaker whose room cannot take more this turn is not decoded further: the rest of its input
//!   is stashed, and nothing is received from it until the stash is empty.
//! - A buffer is released as soon as it is decoded.

use std::ops::Range;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Flags, Kind, Phase};
use crate::counters::Counter;
use crate::id::{ConnId, ConnKey, Mode};
use crate::io::{BufferId, CloseHow, Errno, Input, Io};
use crate::limits::STRIKES_MAX;
use crate::mesh::Mail;
use crate::payload::{Batch, Payload};
use crate::protocol::{self, Fault, event};
use crate::room::hall::Role;
use crate::shard::bridge::Speech;
use crate::shard::{Shard, State};
use crate::ws::encode::{close_frame, put_frame};
use crate::ws::utf8::as_text;
use crate::ws::{Event, Opcode};

/// How decoding of one piece of input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All of it was decoded.
    Whole,
    /// The room, the mesh or the socket cannot take more: decoded up to here.
    Paused(usize),
    /// The connection ends for this reason; what is left of the input is of no interest.
    Over(Disconnect),
    /// The peer closed, with this code if it gave any.
    Closed(Option<u16>),
}

impl<I: Io> Shard<I> {
    pub(super) fn readable(&mut self, id: ConnId, hangup: bool, armed: bool) {
        let Some(conn) = self.state.conns.get(id) else { return };
        if hangup {
            conn.flags.set(Flags::HANGUP);
        }
        if !armed {
            conn.flags.clear(Flags::POLLED);
        }
        self.state.mark_ready(id);
    }

    pub(super) fn received(&mut self, id: ConnId, outcome: Result<Input, Errno>, armed: bool) {
        if self.state.stands() {
            self.received_standing(id, outcome, armed);
        } else {
            self.received_once(id, outcome);
        }
    }

    /// What a receive has brought that ends with it.
    pub(super) fn received_once(&mut self, id: ConnId, outcome: Result<Input, Errno>) {
        let input = match outcome {
            Ok(input) => input,
            Err(error) => return self.receive_failed(id, error),
        };
        self.state.counters.add(Counter::received_bytes, input.len as u64);
        let phase = self.state.conns.get(id).map(|conn| {
            conn.flags.clear(Flags::RECEIVING);
            conn.phase
        });
        if let Some(buffer) = input.buffer {
            let is_kept = match phase {
                Some(phase) if input.len > 0 => self.take_in(id, phase, buffer, input.len),
                _ => false,
            };
            if !is_kept {
                self.io.release(buffer);
            }
        }
        let Some(phase) = phase else { return };
        if input.len == 0 {
            return self.peer_ended(id);
        }
        if matches!(phase, Phase::Open | Phase::Closing(_)) {
            self.receive_on(id, input.more || input.len == self.state.ring.buffer_bytes);
        }
    }

    /// The peer's FIN. It may still read what waits for it, for as long as a closing peer may.
    pub(super) fn peer_ended(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.flags.set(Flags::ENDED);
        if conn.egress.is_none() {
            return self.vacate(id, Disconnect::PeerGone, CloseHow::Orderly);
        }
        self.state.notify_lag(id);
        self.state.begin_closing(id, Disconnect::PeerGone);
    }

    /// Whether the buffer is kept.
    pub(super) fn take_in(
        &mut self,
        id: ConnId,
        phase: Phase,
        buffer: BufferId,
        len: usize,
    ) -> bool {
        match phase {
            Phase::Head => {
                // A head leads to operations on the socket: it is copied out, once a connection.
                let mut bytes = self.io.buffer(buffer, len).to_vec();
                self.head_received(id, &mut bytes);
            }
            Phase::Open => return self.feed(id, buffer, len),
            // Whatever a peer still sends after its end is drained, so that no RST eats the close
            // frame on its way.
            Phase::Closing(_) | Phase::Joining | Phase::Parting => {}
        }
        false
    }

    /// Polls for input, where that is not done already.
    pub(super) fn watch_input(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        if !conn.flags.has(Flags::POLLED) {
            // Arming looks at the level: nothing that came in between is missed.
            conn.flags.set(Flags::POLLED);
            self.io.poll_readable(id);
        }
    }

    /// Decides whether to receive again, or to wait for the next event.
    fn receive_on(&mut self, id: ConnId, more: bool) {
        self.watch_input(id);
        let Some(conn) = self.state.conns.get(id) else { return };
        // Multishot poll reports edges: data and FIN together give one event and never another.
        let again = conn.flags.take(Flags::AGAIN);
        if more || again || conn.flags.has(Flags::HANGUP) {
            self.state.mark_ready(id);
        }
    }

    fn receive_failed(&mut self, id: ConnId, error: Errno) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        conn.flags.clear(Flags::RECEIVING);
        match error {
            Errno::NOBUFS => {
                state.counters.add(Counter::buffers_exhausted, 1);
                if conn.phase == Phase::Head {
                    conn.flags.set(Flags::RECEIVING);
                    self.io.recv(id, crate::io::Patience::Wait);
                } else {
                    state.mark_ready(id);
                }
            }
            Errno::AGAIN | Errno::INTR => {
                if conn.phase == Phase::Head {
                    conn.flags.set(Flags::RECEIVING);
                    self.io.recv(id, crate::io::Patience::Wait);
                } else {
                    conn.flags.clear(Flags::HANGUP);
                    self.receive_on(id, false);
                }
            }
            _ => self.vacate(id, Disconnect::PeerGone, CloseHow::Reset),
        }
    }

    /// Goes on with what had to wait for its room, before anything new can fill that again:
    /// speakers here, mail from other shards and mail from other boxes, in turn. How many got
    /// further.
    pub(super) fn resume(&mut self) -> usize {
        let parties = if self.state.bridge.is_some() { 3 } else { 2 };
        let first = (self.state.resumes_first + 1) % parties;
        self.state.resumes_first = first;
        let mut resumed = 0;
        for party in first..first + parties {
            resumed += match party % parties {
                0 => self.state.resume_speakers(),
                1 => self.state.held_requests(),
                _ => self.held_inbound(),
            };
        }
        resumed
    }
}

impl State {
    /// Who could not be taken yet stays in front of those who were, and want more.
    fn resume_speakers(&mut self) -> usize {
        let mut resumed = 0;
        let mut waiting = std::mem::take(&mut self.paused);
        waiting.retain(|&id| {
            if !self.is_paused(id) {
                return false;
            }
            let takes = self.may_take(id);
            if takes {
                resumed += 1;
                self.feed_stash(id);
            }
            !takes
        });
        waiting.append(&mut self.paused);
        self.paused = waiting;
        resumed
    }

    /// Goes on with echoes whose readers have taken what waited for them; how many.
    pub(super) fn resume_echoes(&mut self) -> usize {
        let mut resumed = 0;
        for id in std::mem::take(&mut self.drained) {
            if self.is_paused(id) && self.may_take(id) {
                resumed += 1;
                self.feed_stash(id);
            }
        }
        resumed
    }

    fn is_paused(&mut self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.flags.has(Flags::PAUSED))
    }

    /// Decodes what was stashed, as far as it can be taken now.
    pub(super) fn feed_stash(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let was_paused = conn.flags.take(Flags::PAUSED);
        let Some(cold) = &mut conn.cold else { return self.unpause(id) };
        let mut stash = std::mem::take(&mut cold.stash);
        let start = std::mem::take(&mut cold.stash_start);
        conn.thaw();
        if was_paused {
            // The heartbeat's clock stands still while we are the ones who do not read.
            conn.heard = self.wheel.tick_at(self.now);
        }
        if start < stash.len() {
            let (paused_at, answer) = self.decode(id, &mut stash[start..]);
            match (paused_at, answer) {
                (Some(at), _) => self.pause(id, stash, start + at),
                (None, Some(part)) => {
                    self.push_answer(id, stash, &(start + part.start..start + part.end));
                }
                (None, None) => {}
            }
        }
        self.unpause(id);
        self.weigh(id);
    }

    fn unpause(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if !conn.flags.has(Flags::PAUSED) {
            // After a pause begin with a receive: the edge may have passed meanwhile.
            conn.flags.clear(Flags::READY);
            self.mark_ready(id);
        }
    }

    fn pause(&mut self, id: ConnId, stash: Vec<u8>, start: usize) {
        self.counters.add(Counter::pauses, 1);
        let Some(conn) = self.conns.get(id) else { return };
        conn.flags.set(Flags::PAUSED);
        // Who waits for its own reader goes on when that has taken what waits.
        let is_echo = conn.kind == Kind::Echo;
        let cold = conn.cold();
        cold.stash = stash;
        cold.stash_start = start;
        if !is_echo {
            self.paused.push_back(id);
        }
    }

    /// Decodes a received buffer, in place; which part of it is now the answer, for an echo.
    pub(super) fn feed(&mut self, id: ConnId, bytes: &mut [u8]) -> Option<Range<usize>> {
        if let Some(conn) = self.conns.get(id) {
            conn.heard = self.wheel.tick_at(self.now);
            conn.flags.clear(Flags::PINGED);
        }
        let (paused_at, answer) = self.decode(id, bytes);
        if let Some(at) = paused_at {
            self.pause(id, bytes[at..].to_vec(), 0);
        }
        self.weigh(id);
        answer
    }

    fn decode(&mut self, id: ConnId, bytes: &mut [u8]) -> (Option<usize>, Option<Range<usize>>) {
        match self.conns.get(id).map(|conn| conn.kind) {
            Some(Kind::Echo) => self.decode_echo(id, bytes),
            Some(kind) => (self.decode_member(id, kind, bytes), None),
            None => (None, None),
        }
    }

    /// Decodes until the input ends or has to wait; then, up to where it was decoded.
    fn decode_member(&mut self, id: ConnId, kind: Kind, bytes: &mut [u8]) -> Option<usize> {
        let message_bytes = self.limits.message_bytes;
        if self.conns.get(id)?.phase != Phase::Open {
            return None;
        }
        let mut assembler = std::mem::take(&mut self.conns.get(id)?.assembler);
        let mut replies = Vec::new();
        let mut at = 0;
        let ended = loop {
            if at == bytes.len() {
                break Ended::Whole;
            }
            if !self.may_take(id) {
                break Ended::Paused(at);
            }
            let step = match assembler.decode(&mut bytes[at..], message_bytes) {
                Ok(step) => step,
                Err(violation) => break Ended::Over(reason_of(violation.code)),
            };
            at += step.consumed;
            let Some(event) = step.event else { continue };
            if let Some(ended) = self.handle_event(id, kind, event, &mut replies) {
                break ended;
            }
        };
        assembler.settle();
        if let Some(conn) = self.conns.get(id) {
            conn.assembler = assembler;
        }
        if !replies.is_empty() {
            self.push_own(id, replies);
        }
        self.conclude(id, ended)
    }

    /// Does what the end of decoding asks for; up to where it was decoded, if the rest has to wait.
    pub(super) fn conclude(&mut self, id: ConnId, ended: Ended) -> Option<usize> {
        match ended {
            Ended::Whole => None,
            Ended::Paused(at) => Some(at),
            Ended::Over(reason) => {
                self.end(id, reason);
                None
            }
            // RFC 6455 section 5.5.1: "If an endpoint receives a Close frame and did not previously
            // send a Close frame, the endpoint MUST send a Close frame in response."
            Ended::Closed(code) => {
                let mut frame = Vec::new();
                match code {
                    Some(code) => frame = close_frame(code, ""),
                    None => put_frame(&mut frame, Opcode::Close, &[]),
                }
                self.notify_lag(id);
                self.push_own(id, frame);
                self.begin_closing(id, Disconnect::PeerClosed);
                None
            }
        }
    }

    fn handle_event(
        &mut self,
        id: ConnId,
        kind: Kind,
        event: Event<'_>,
        replies: &mut Vec<u8>,
    ) -> Option<Ended> {
        match event {
            Event::Message { kind: content, bytes } => {
                self.count(Counter::messages_in);
                self.counters.add(Counter::message_bytes_in, bytes.len() as u64);
                let opcode = match content {
                    crate::ws::Kind::Text => Opcode::Text,
                    crate::ws::Kind::Binary => Opcode::Binary,
                };
                match kind {
                    // A raw room has no words for an error.
                    Kind::Room(Mode::Raw) => self.say(id, opcode, bytes, None),
                    _ if opcode == Opcode::Binary => Some(Ended::Over(Disconnect::BinaryInJson)),
                    _ => self.say_json(id, bytes),
                }
            }
            Event::Ping(payload) if self.is_blocked(id) => {
                self.push_pong(id, payload);
                None
            }
            // A reader that keeps up gets a pong a ping, in one piece with all that answers this
            // input: a piece each would be queued faster than a turn sends them.
            Event::Ping(payload) => {
                put_frame(replies, Opcode::Pong, payload);
                None
            }
            Event::Pong(_) => None,
            Event::Close(payload) => Some(Ended::Closed(payload.map(|(code, _)| code))),
        }
    }

    /// Whether the next message could be taken now. A member's room has a bound a turn, a room that
    /// lives elsewhere has the lane's, an echo waits until its reader has taken what came before.
    pub(super) fn may_take(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(id) else { return true };
        match (conn.kind, conn.seat) {
            (Kind::Echo, _) => conn.egress.is_none(),
            (_, Some(seat)) => match self.halls.at(seat.hall).map(|hall| &hall.role) {
                Some(Role::Home(home)) => home.pending.bytes.len() < self.limits.room_tick_bytes,
                Some(Role::Outpost(outpost)) => self.mesh.may_say(outpost.home),
                None => true,
            },
            _ => true,
        }
    }

    fn say_json(&mut self, id: ConnId, bytes: &[u8]) -> Option<Ended> {
        // The assembler has checked it: this pass is what safe code pays for a `str`.
        let Some(text) = as_text(bytes) else {
            return Some(Ended::Over(Disconnect::InvalidUtf8));
        };
        let conn = self.conns.get(id)?;
        let seat = conn.seat?;
        let own_name = conn.cold.as_ref().and_then(|cold| cold.user.as_deref());
        let hall = self.halls.at(seat.hall)?;
        let member = hall.members[seat.index as usize];
        let user = match &hall.role {
            Role::Home(home) => home.room.user(member.user),
            Role::Outpost(_) => own_name?,
        };
        match protocol::command::parse(text, &hall.key.name, user) {
            Ok(say) => self.say(id, Opcode::Text, say.content.as_bytes(), say.reference),
            Err(fault) => self.fault(id, &fault),
        }
    }

    /// Gives a member's content its place in the room: here, or by mail.
    fn say(
        &mut self,
        id: ConnId,
        opcode: Opcode,
        content: &[u8],
        reference: Option<&str>,
    ) -> Option<Ended> {
        let seat = self.conns.get(id)?.seat?;
        let hall = self.halls.at(seat.hall)?;
        let user = hall.members[seat.index as usize].user;
        match &hall.role {
            Role::Home(_) => {
                let speaker = ConnKey { shard: self.id, conn: id };
                if self.bridge.is_none() {
                    self.speak(seat.hall, user, speaker, opcode, content);
                    return None;
                }
                let speech = Speech { user, speaker, opcode, content, reference };
                if self.speak_to_cluster(seat.hall, &speech) {
                    return self.push_unavailable(id, reference);
                }
            }
            Role::Outpost(outpost) => {
                let (home, to) = (outpost.hall?, outpost.home);
                let reference = reference.filter(|_| self.bridge.is_some()).map(Box::from);
                let content = content.into();
                let mail = Mail::Say { home, user, who: id, opcode, content, reference };
                self.mesh.post(to, mail);
            }
        }
        None
    }

    /// Answers an error to the speaker alone; a flood of them ends the connection.
    fn fault(&mut self, id: ConnId, fault: &Fault<'_>) -> Option<Ended> {
        let second = u32::try_from(self.now.0 / 1000).unwrap_or(u32::MAX);
        let cold = self.conns.get(id)?.cold();
        cold.strikes = cold.strikes.saturating_sub(second - cold.strikes_at) + 1;
        cold.strikes_at = second;
        if cold.strikes > STRIKES_MAX {
            self.count(Counter::errors);
            return Some(Ended::Over(Disconnect::Flood));
        }
        self.push_error(id, fault)
    }

    /// Answers an error to the speaker alone.
    pub(super) fn push_error(&mut self, id: ConnId, fault: &Fault<'_>) -> Option<Ended> {
        self.count(Counter::errors);
        let mut frame = Vec::new();
        event::put_error(&mut frame, fault);
        let before = self.conns.get(id)?.queued_bytes();
        self.push_own(id, frame);
        // Who does not read its errors is as slow as who does not read its room.
        (before > self.limits.queue_bytes).then_some(Ended::Over(Disconnect::SlowConsumer))
    }

    fn is_blocked(&mut self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.flags.has(Flags::BLOCKED))
    }

    fn push_pong(&mut self, id: ConnId, payload: &[u8]) {
        let Some(conn) = self.conns.get(id) else { return };
        let mut pong = Batch::default();
        put_frame(&mut pong.bytes, Opcode::Pong, payload);
        conn.egress().push_pong(Payload::own(pong).whole());
        self.mark_dirty(id);
    }
}

/// The reason behind a decoder's close code.
pub(super) fn reason_of(code: u16) -> Disconnect {
    match code {
        1007 => Disconnect::InvalidUtf8,
        1009 => Disconnect::MessageTooBig,
        _ => Disconnect::ProtocolError,
    }
}
