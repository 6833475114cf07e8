//! What people are told of the broker: `/health`.
//!
//! In:    what the bridge's thread notes as it happens.
//! Out:   [`Report`], for whoever asks, on any thread.
//! Never: is waited for: numbers are atomic, and the lock is held for one text.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::State;
use crate::bridge::Bridge;

/// What is counted of other boxes' messages.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that a member of every room here has missed.
    pub gaps: AtomicU64,
    /// Messages that came a second time and were dropped.
    pub duplicates: AtomicU64,
    /// Envelopes of another version, or that are none.
    pub unreadable: AtomicU64,
    /// Times that a log showed a message before an earlier one, and was read again for it.
    pub rereads: AtomicU64,
    /// Other boxes that are alive.
    pub peers: AtomicUsize,
}

impl Counts {
    /// Counts messages that were missed.
    pub fn miss(&self, messages: u64) {
        self.gaps.fetch_add(messages, Ordering::Relaxed);
    }
}

/// Noted by the bridge's thread, read by others.
#[derive(Debug)]
pub struct Status {
    /// What is counted of other boxes' messages.
    pub counts: Counts,
    kind: &'static str,
    start: Instant,
    state: AtomicU8,
    /// Milliseconds after `start`.
    since: AtomicU64,
    round_trip_us: AtomicU64,
    /// Sessions that came to carry messages.
    sessions: AtomicU64,
    unconfirmed: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// What `/health` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which broker.
    pub kind: &'static str,
    /// Where the breaker stands.
    pub state: State,
    /// How long messages have gone through, or not.
    pub since: Duration,
    /// Of the last probe that came back.
    pub round_trip: Duration,
    /// Mail from shards that the bridge has not taken yet.
    pub queue: usize,
    /// As much as there may be.
    pub queue_max: usize,
    /// Messages from here that were never handed to the broker.
    pub dropped: u64,
    /// Messages handed to the broker that it did not confirm: others may have heard them, or not.
    pub unconfirmed: u64,
    /// Messages refused with `unavailable`.
    pub rejected: u64,
    /// Messages of other boxes that a member of every room here has missed.
    pub gaps: u64,
    /// Messages that came a second time and were dropped.
    pub duplicates: u64,
    /// Envelopes that nobody here can read.
    pub unreadable: u64,
    /// Times that a log showed a message before an earlier one, and was read again for it.
    pub rereads: u64,
    /// How often the broker was lost and found again.
    pub reconnects: u64,
    /// Boxes that are alive, this one among them.
    pub nodes: usize,
    /// Why the last session or attempt has failed.
    pub last_error: Option<String>,
}

impl Status {
    /// Of a broker of that kind, not connected.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self {
            counts: Counts::default(),
            kind,
            start: Instant::now(),
            state: AtomicU8::new(0),
            since: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    /// Where the breaker stands, and since when messages go through or do not.
    pub fn set_state(&self, state: State, since: Instant) {
        let number = match state {
            State::Open => 0,
            State::HalfOpen => 1,
            State::Closed => 2,
        };
        let since = crate::time::millis(since.saturating_duration_since(self.start));
        self.since.store(since, Ordering::Relaxed);
        if self.state.swap(number, Ordering::Relaxed) != number && state == State::Closed {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where the breaker stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Open,
            1 => State::HalfOpen,
            _ => State::Closed,
        }
    }

    /// A probe has come back.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip_us.store(us, Ordering::Relaxed);
    }

    /// Messages were published and not confirmed.
    pub fn count_unconfirmed(&self, messages: u64) {
        self.unconfirmed.fetch_add(messages, Ordering::Relaxed);
    }

    /// Why there is no session; whether that is another reason than the last one's.
    pub fn set_error(&self, error: String) -> bool {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_ref() != Some(&error);
        *last = Some(error);
        is_new
    }

    /// Everything, now.
    #[must_use]
    pub fn report(&self, bridge: &Bridge) -> Report {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report {
            kind: self.kind,
            state: self.state(),
            since: self.start.elapsed().saturating_sub(Duration::from_millis(load(&self.since))),
            round_trip: Duration::from_micros(load(&self.round_trip_us)),
            queue: bridge.outbound(),
            queue_max: bridge.lane_messages() * bridge.shards(),
            dropped: bridge.dropped(),
            unconfirmed: load(&self.unconfirmed),
            rejected: bridge.rejected(),
            gaps: load(&self.counts.gaps),
            duplicates: load(&self.counts.duplicates),
            unreadable: load(&self.counts.unreadable),
            rereads: load(&self.counts.rereads),
            reconnects: load(&self.sessions).saturating_sub(1),
            nodes: self.counts.peers.load(Ordering::Relaxed) + 1,
            last_error,
        }
    }
}
