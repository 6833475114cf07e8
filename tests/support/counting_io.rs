//! `Io` that counts: what arrives is what the test laid there, what is sent is whole and gone.
//!
//! In:    operations of one shard; input that a test or a bench lays out for a slot.
//! Out:   completions, as a ring reports them; how often each thing was asked for.
//! Never: knows what the shard does, keeps a byte that was sent, or falls short.
//!
//! Shared by the tests that count and by `benches/`: nothing here belongs to the server, and it
//! does as little as a kernel's end can, so that what is measured is the shard.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ringhall::id::{ConnId, ShardId};
use ringhall::io::{
    BufferId, CloseHow, Completion, Errno, Input, Io, Parcel, Patience, Segments, Wait,
};
use ringhall::limits::RingUse;
use ringhall::payload::Segment;

/// How often each thing was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Sends, those out of received buffers among them.
    pub sends: u64,
    /// Sends out of received buffers.
    pub sends_back: u64,
    /// Bytes of all sends.
    pub sent_bytes: u64,
    /// Bytes of the payloads that were sent, each counted once, however many sends in a row shared
    /// it: what was copied to build them. A payload that is nobody's copy adds nothing.
    pub built_bytes: u64,
    /// Receives.
    pub receives: u64,
    /// Polls, of either kind.
    pub polls: u64,
    /// Closes.
    pub closes: u64,
}

/// What the slots of one shard see of the world.
pub struct CountingIo {
    /// What was asked for so far.
    pub asked: Asked,
    /// Frames as they were sent to this slot, kept where a test wants to look at them.
    pub listen_at: Option<u32>,
    /// What was sent to `listen_at`.
    pub heard: Vec<u8>,
    buffers: Vec<Box<[u8]>>,
    free: Vec<u16>,
    arriving: Vec<VecDeque<Rc<[u8]>>>,
    receiving: Vec<(ConnId, Patience)>,
    waiting: Vec<Option<ConnId>>,
    /// Where the payload of the send before lies, within one submission.
    last_payload: usize,
    sending: Vec<Segments>,
    sending_back: Vec<BufferId>,
    done: VecDeque<Completion>,
}

impl CountingIo {
    /// So many slots and receive buffers.
    pub fn new(slots: usize, buffers: u16) -> Self {
        Self {
            asked: Asked::default(),
            listen_at: None,
            heard: Vec::new(),
            buffers: (0..buffers)
                .map(|_| vec![0; RingUse::default().buffer_bytes].into())
                .collect(),
            free: (0..buffers).rev().collect(),
            arriving: (0..slots).map(|_| VecDeque::new()).collect(),
            receiving: Vec::new(),
            waiting: vec![None; slots],
            last_payload: 0,
            sending: Vec::new(),
            sending_back: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// A client connects; the shard hears of it at its next turn.
    pub fn connect(&mut self, slot: u32) {
        self.done.push_back(Completion::Accepted { slot });
    }

    /// Bytes come in for a slot. Whoever polls has to be told, with [`CountingIo::readable`].
    pub fn arrive(&mut self, slot: u32, bytes: &Rc<[u8]>) {
        self.arriving[slot as usize].push_back(bytes.clone());
        if let Some(conn) = self.waiting[slot as usize].take() {
            self.receive(conn, Patience::Wait);
        }
    }

    /// Receives' worth of input that has come for a slot and was not taken yet.
    pub fn arriving(&self, slot: u32) -> usize {
        self.arriving[slot as usize].len()
    }

    /// A connection that polls has something to receive.
    pub fn readable(&mut self, conn: ConnId) {
        self.done.push_back(Completion::Readable { conn, hangup: false, armed: true });
    }

    fn receive(&mut self, conn: ConnId, patience: Patience) {
        let slot = conn.slot as usize;
        let outcome = if self.arriving[slot].is_empty() {
            if patience == Patience::Wait {
                self.waiting[slot] = Some(conn);
                return;
            }
            Err(Errno::AGAIN)
        } else if let Some(id) = self.free.pop() {
            let bytes = self.arriving[slot].pop_front().unwrap_or_default();
            let most = RingUse::default().buffer_bytes;
            assert!(bytes.len() <= most, "one receive brings one buffer");
            self.buffers[usize::from(id)][..bytes.len()].copy_from_slice(&bytes);
            let more = !self.arriving[slot].is_empty();
            Ok(Input { buffer: Some(BufferId(id)), len: bytes.len(), more })
        } else {
            Err(Errno::NOBUFS)
        };
        self.done.push_back(Completion::Received { conn, outcome, armed: false });
    }

    fn count_payload(&mut self, segment: &Segment) {
        let bytes = segment.payload.bytes();
        let place = bytes.as_ptr() as usize;
        if std::mem::replace(&mut self.last_payload, place) != place {
            self.asked.built_bytes += bytes.len() as u64;
        }
    }

    fn count_send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.asked.sent_bytes += bytes.len() as u64;
        if self.listen_at == Some(conn.slot) {
            self.heard.extend_from_slice(bytes);
        }
    }
}

// Not inlined, so that a profile tells what belongs to it and what to the shard.
impl Io for CountingIo {
    fn accept(&mut self) {}

    fn accept_some(&mut self, _count: usize) {}

    fn stop_accepting(&mut self) {}

    #[inline(never)]
    fn ask_peer(&mut self, conn: ConnId) {
        self.done.push_back(Completion::Peer { conn, address: None });
    }

    #[inline(never)]
    fn recv(&mut self, conn: ConnId, patience: Patience) {
        self.asked.receives += 1;
        self.receiving.push((conn, patience));
    }

    #[inline(never)]
    fn poll_readable(&mut self, conn: ConnId) {
        self.asked.polls += 1;
        if !self.arriving[conn.slot as usize].is_empty() {
            self.readable(conn);
        }
    }

    #[inline(never)]
    fn poll_writable(&mut self, conn: ConnId) {
        self.asked.polls += 1;
        self.done.push_back(Completion::Writable { conn });
    }

    fn stop_receiving(&mut self, _: ConnId) {}

    fn disarm(&mut self, _: ConnId) {}

    #[inline(never)]
    fn send(&mut self, conn: ConnId, segments: Segments) {
        self.asked.sends += 1;
        for segment in segments.as_slice() {
            self.count_payload(segment);
            self.count_send(conn, segment.bytes());
        }
        self.sending.push(segments);
    }

    #[inline(never)]
    fn send_back(&mut self, conn: ConnId, buffer: BufferId, part: Range<usize>) {
        self.asked.sends += 1;
        self.asked.sends_back += 1;
        let bytes = std::mem::take(&mut self.buffers[usize::from(buffer.0)]);
        self.count_send(conn, &bytes[part]);
        self.buffers[usize::from(buffer.0)] = bytes;
        self.sending_back.push(buffer);
    }

    fn shutdown(&mut self, _: ConnId) {}

    #[inline(never)]
    fn close(&mut self, conn: ConnId, _: CloseHow) {
        self.asked.closes += 1;
        self.arriving[conn.slot as usize].clear();
        self.waiting[conn.slot as usize] = None;
    }

    fn depart(&mut self, conn: ConnId, _: ShardId, parcel: Box<Parcel>) {
        self.done.push_back(Completion::Stayed { conn, parcel, error: Errno::NFILE });
    }

    fn doorbell(&mut self, _: ShardId) {}

    fn detach(&mut self, conn: ConnId) {
        self.done.push_back(Completion::Detached { conn, fd: Err(Errno::MFILE) });
    }

    fn adopt(&mut self, fd: OwnedFd, parcel: Box<Parcel>) {
        self.done.push_back(Completion::AdoptFailed { fd, parcel, error: Errno::NFILE });
    }

    #[inline(never)]
    fn buffer(&mut self, id: BufferId, len: usize) -> &mut [u8] {
        &mut self.buffers[usize::from(id.0)][..len]
    }

    #[inline(never)]
    fn release(&mut self, id: BufferId) {
        self.free.push(id.0);
    }

    #[inline(never)]
    fn buffers_free(&self) -> usize {
        self.free.len()
    }

    #[inline(never)]
    fn submit(&mut self, _: Wait) {
        self.last_payload = 0;
        self.sending.clear();
        for id in self.sending_back.drain(..) {
            self.free.push(id.0);
        }
        let mut receiving = std::mem::take(&mut self.receiving);
        for (conn, patience) in receiving.drain(..) {
            self.receive(conn, patience);
        }
        self.receiving = receiving;
    }

    #[inline(never)]
    fn reap(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}
