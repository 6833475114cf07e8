//! From the listen queue to a whole request head.
//!
//! In:    accepted slots, the bytes of request heads.
//! Out:   upgrades, refusals, requests for plain HTTP with their sockets.
//! Never: decides where a connection sits, reads a frame.
//!
//! # Invariants
//! - Until the upgrade, one receive is all that is ever armed: so nothing is in flight when a
//!   connection departs or is detached.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Conn, Flags, Phase};
use crate::counters::Counter;
use crate::http::{HeadLimits, HeadVerdict, Refusal, RefusalKind, read_head};
use crate::id::ConnId;
use crate::io::{CloseHow, Errno, Io, Patience};
use crate::shard::origin::{client_of, refuse_header};
use crate::shard::shared::take_one;
use crate::shard::{Handoff, Shard};

impl<I: Io> Shard<I> {
    pub(super) fn accepted(&mut self, slot: u32) {
        let state = &mut self.state;
        state.count(Counter::accepted);
        state.note_accepted();
        let mut conn = Conn::new(state.wheel.tick_at(state.now));
        conn.cold().accepted = Some(state.meter.began);
        let id = state.conns.insert(slot, conn);
        let due = state.now.after(state.limits.handshake_timeout);
        state.wheel.set(&mut state.conns, id.slot, due);
        if state.drain.is_some() {
            return state.refuse_for_shutdown(id);
        }
        if let Err((kind, message)) = state.shared.admit(state.limits.connections_max) {
            let retry = state.random.u32(1..=10);
            state.refuse(id, Refusal::for_now(kind, message, retry));
            // Whoever is refused has a slot, too, and memory, until it has read that.
            return self.pause_accepting();
        }
        if let Some(conn) = state.conns.get(id) {
            conn.flags.set(Flags::ADMITTED);
        }
        if state.asks_peers() {
            self.io.ask_peer(id);
        } else {
            self.await_head(id);
        }
        self.pause_accepting();
    }

    pub(super) fn await_head(&mut self, id: ConnId) {
        let Some(conn) = self.state.conns.get(id) else { return };
        conn.flags.set(Flags::RECEIVING);
        self.io.recv(id, Patience::Wait);
    }

    /// Bytes of a request head have come.
    pub(super) fn head_received(&mut self, id: ConnId, bytes: &mut [u8]) {
        let state = &mut self.state;
        let limits = HeadLimits { head_bytes: state.limits.head_bytes };
        let Some(conn) = state.conns.get(id) else { return };
        if conn.flags.has(Flags::PREFACED) {
            return self.header_received(id, bytes);
        }
        let cold = conn.cold();
        // Nearly always the whole head comes at once and is read where it lies.
        let in_pieces = !cold.head.is_empty();
        if in_pieces {
            cold.head.extend_from_slice(bytes);
        }
        let all: &[u8] = if in_pieces { &cold.head } else { bytes };
        let verdict = read_head(all, &mut cold.progress, limits);
        match verdict {
            HeadVerdict::Incomplete => {
                if !in_pieces {
                    cold.head = bytes.to_vec();
                }
                state.weigh(id);
                self.await_head(id);
            }
            HeadVerdict::Upgrade { request, consumed } => {
                let leftover = all[consumed..].to_vec();
                let client = client_of(&state.shared.front, cold.origin, &all[..consumed]);
                cold.head = Vec::new();
                state.weigh(id);
                if !state.count_client(id, client) {
                    return;
                }
                self.upgrade(id, request, leftover);
            }
            HeadVerdict::Plain => {
                if !in_pieces {
                    cold.head = bytes.to_vec();
                }
                state.weigh(id);
                self.leave_for_http(id);
            }
            HeadVerdict::Refuse(refusal) => {
                let refusal = refuse_header(all).unwrap_or(refusal);
                state.refuse(id, refusal);
            }
        }
    }

    fn leave_for_http(&mut self, id: ConnId) {
        let state = &mut self.state;
        if !take_one(&state.shared.http_connections, state.limits.http_connections) {
            let message = "too many plain HTTP connections (limits.http_connections); try again";
            let retry = state.random.u32(1..=3);
            return state.refuse(id, Refusal::for_now(RefusalKind::HttpFull, message, retry));
        }
        if let Some(conn) = state.conns.get(id) {
            conn.phase = Phase::Parting;
        }
        self.io.detach(id);
    }

    pub(super) fn detached(&mut self, id: ConnId, fd: Result<OwnedFd, Errno>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        match fd {
            Ok(fd) => {
                let peer = conn.client();
                let bytes = std::mem::take(&mut conn.cold().head);
                state.count(Counter::http);
                state.handoffs.push(Handoff { fd, bytes, peer });
                self.vacate(id, Disconnect::PlainHttp, CloseHow::Orderly);
            }
            Err(error) => {
                state.shared.http_connections.fetch_sub(1, Ordering::Relaxed);
                if let Some(suppressed) = state.warnings.allow(state.now) {
                    tracing::warn!(
                        %error, suppressed,
                        "no descriptor for a plain HTTP request; raise LimitNOFILE"
                    );
                }
                let message = "the server is out of descriptors; try again later";
                let retry = state.random.u32(1..=3);
                state.refuse(id, Refusal::for_now(RefusalKind::Unavailable, message, retry));
            }
        }
    }
}
