//! Decides whether messages may be handed to the broker.
//!
//! In:    sessions that begin and fail, probes that come back, and `now`.
//! Out:   the state; when a probe is due; how long to wait before the next attempt.
//! Never: reads a clock, or knows which broker it is.
//!
//! ```text
//!  Open --connected--> HalfOpen --probe back, then the grace--> Closed
//!    ^                     |                                      |
//!    +------ failed -------+----------------- failed -------------+
//! ```
//!
//! # Invariants
//! - One probe is out at a time; one of an earlier session never counts.

use std::time::{Duration, Instant};

/// Pause between two probes.
pub const PROBE_EVERY: Duration = Duration::from_millis(250);
/// A probe that is out for so long will not come back.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After the first probe of a session: other boxes reconnect, too, and what is published before
/// they have subscribed is lost.
pub const GRACE: Duration = Duration::from_millis(500);
/// Shortest pause before an attempt; it doubles from one to the next.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause before an attempt: a broker that is back is used within two seconds.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Where the breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No session: nothing is handed over.
    Open,
    /// A session is tried: signs of life and probes alone.
    HalfOpen,
    /// Messages go through.
    Closed,
}

/// What the time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until then.
    Wait(Instant),
    /// A probe is due: [`Breaker::take_probe`].
    Probe,
    /// The breaker has just closed.
    Closed,
    /// The probe has not come back: the session has failed.
    Silent,
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// When messages began or ceased to go through.
    since: Instant,
    /// Sessions and attempts that failed since it was last closed.
    failures: u32,
    /// The probe that is out.
    out: Option<(u64, Instant)>,
    last_probe: u64,
    probe_at: Instant,
    grace_over: Option<Instant>,
}

impl Breaker {
    /// Open.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Open,
            since: now,
            failures: 0,
            out: None,
            last_probe: 0,
            probe_at: now,
            grace_over: None,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether messages go through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Since when messages go through, or do not: an attempt amid an outage changes nothing.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// A session has begun.
    pub fn connected(&mut self, now: Instant) {
        self.state = State::HalfOpen;
        self.out = None;
        self.probe_at = now;
        self.grace_over = None;
    }

    /// The session has failed, or the attempt to have one; whether messages went through until now.
    pub fn failed(&mut self, now: Instant) -> bool {
        let was_closed = self.is_closed();
        if was_closed {
            self.since = now;
        }
        self.state = State::Open;
        self.out = None;
        self.grace_over = None;
        self.failures = self.failures.saturating_add(1);
        was_closed
    }

    /// How long to wait before the next attempt; `chance` is random, from 0 to 1. All boxes have
    /// lost the broker at once: jitter keeps them from coming back at once.
    #[must_use]
    pub fn backoff(&self, chance: f64) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let longest = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// The number of the probe to send now, where one is due.
    pub fn take_probe(&mut self, now: Instant) -> Option<u64> {
        let due = self.state != State::Open && self.out.is_none() && now >= self.probe_at;
        if !due {
            return None;
        }
        self.last_probe += 1;
        self.out = Some((self.last_probe, now));
        Some(self.last_probe)
    }

    /// A probe has come back; its round trip, where it is the one that is out.
    pub fn probe_back(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let (_, sent) = self.out.filter(|(out, _)| *out == number)?;
        self.out = None;
        self.probe_at = sent + PROBE_EVERY;
        if self.state == State::HalfOpen && self.grace_over.is_none() {
            self.grace_over = Some(now + GRACE);
        }
        Some(now.saturating_duration_since(sent))
    }

    /// What the time has brought while there is a session.
    pub fn step(&mut self, now: Instant) -> Step {
        let overdue = self.out.map(|(_, sent)| sent + PROBE_TIMEOUT);
        if overdue.is_some_and(|due| now >= due) {
            return Step::Silent;
        }
        if self.grace_over.is_some_and(|over| now >= over) {
            self.grace_over = None;
            self.state = State::Closed;
            self.since = now;
            self.failures = 0;
            return Step::Closed;
        }
        let next = overdue.unwrap_or(self.probe_at);
        if overdue.is_none() && now >= next {
            return Step::Probe;
        }
        Step::Wait(self.grace_over.map_or(next, |over| over.min(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn closed(at: Instant) -> Breaker {
        let mut breaker = Breaker::new(at);
        breaker.connected(at);
        let probe = breaker.take_probe(at).unwrap();
        breaker.probe_back(probe, at).unwrap();
        assert_eq!(breaker.step(at + GRACE), Step::Closed);
        breaker
    }

    #[test]
    fn it_closes_when_the_probe_is_back_and_the_grace_is_over() {
        let start = Instant::now();
        let mut breaker = Breaker::new(start);
        assert_eq!((breaker.state(), breaker.take_probe(start)), (State::Open, None));
        breaker.connected(start);
        assert_eq!(breaker.step(start), Step::Probe);
        let probe = breaker.take_probe(start).unwrap();
        assert_eq!(breaker.step(start), Step::Wait(start + PROBE_TIMEOUT));
        assert_eq!(breaker.probe_back(probe, start + 3 * MS), Some(3 * MS));
        let over = start + 3 * MS + GRACE;
        assert_eq!(breaker.step(start + 4 * MS), Step::Wait(start + PROBE_EVERY));
        let second = breaker.take_probe(start + PROBE_EVERY).unwrap();
        assert_eq!(breaker.step(start + PROBE_EVERY), Step::Wait(over));
        assert_eq!(breaker.probe_back(second, over - MS), Some(over - MS - start - PROBE_EVERY));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert_eq!(breaker.step(over), Step::Closed);
        assert_eq!((breaker.state(), breaker.since()), (State::Closed, over));
    }

    #[test]
    fn a_probe_that_does_not_come_back_is_a_failure() {
        let start = Instant::now();
        let mut breaker = closed(start);
        let now = start + GRACE;
        let probe = breaker.take_probe(now).unwrap();
        assert_eq!(breaker.take_probe(now + PROBE_EVERY), None, "one at a time");
        assert_eq!(breaker.step(now + PROBE_TIMEOUT - MS), Step::Wait(now + PROBE_TIMEOUT));
        assert_eq!(breaker.step(now + PROBE_TIMEOUT), Step::Silent);
        assert!(breaker.failed(now + PROBE_TIMEOUT));
        breaker.connected(now + PROBE_TIMEOUT);
        assert_eq!(breaker.probe_back(probe, now + PROBE_TIMEOUT), None, "of another session");
    }

    #[test]
    fn an_attempt_amid_an_outage_leaves_its_start_alone() {
        let start = Instant::now();
        let mut breaker = closed(start);
        assert!(breaker.failed(start + 1000 * MS));
        breaker.connected(start + 1500 * MS);
        assert!(!breaker.failed(start + 1600 * MS));
        assert_eq!(breaker.since(), start + 1000 * MS);
    }

    #[test]
    fn pauses_double_up_to_their_bound_with_jitter() {
        let mut breaker = Breaker::new(Instant::now());
        let mut longest = Vec::new();
        for _ in 0..40 {
            breaker.failed(Instant::now());
            assert_eq!(breaker.backoff(0.0) * 2, breaker.backoff(1.0));
            longest.push(breaker.backoff(1.0));
        }
        assert_eq!(longest[..5], [50, 100, 200, 400, 500].map(|ms| ms * MS));
        assert_eq!(longest[39], BACKOFF_MAX);
        let now = Instant::now();
        let mut breaker = closed(now);
        breaker.failed(now);
        assert_eq!(breaker.backoff(1.0), BACKOFF_MIN, "a success starts anew");
    }
}
