//! Turns the wire and the service of one connection into two that take turns, a head at a time.
//!
//! In:    heads that the wire has judged, as `http` judges the first of a connection.
//! Out:   to the wire, whether it may go on; to the service, a refusal in place of a request.
//! Never: reads a byte.
//!
//! hyper answers a malformed head by itself, with an empty body and past every counter. So it gets
//! to see none: the wire puts [`REFUSED`] in its place, and the refusal waits here for the service.
//!
//! # Invariants
//! - Between a head and the end of the service's answer to it the wire hands over nothing, except
//!   that head's body. What is behind an upgrade's head is thus never taken for a request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::http::Refusal;

/// The request that hyper sees in place of a malformed one.
pub(super) const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// How the wire may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Passage {
    /// To the end of the next head.
    #[default]
    Head,
    /// Not yet: a head is with the service.
    Shut,
    /// No more: what was handed over stands for a head that is refused.
    Over,
    /// With everything that comes: a body, and the last of this connection.
    Body,
}

/// An answer that is under way.
#[derive(Debug)]
pub(super) struct Turn(Gate);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.open(Passage::Head);
    }
}

#[derive(Debug, Default)]
struct State {
    passage: Passage,
    waker: Option<Waker>,
    refusal: Option<Refusal>,
    has_answered: bool,
    is_hurried: bool,
    is_leaving: bool,
}

/// One connection's; its clones are the same gate.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Mutex<State>>);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wire asks; woken when the gate opens.
    pub(super) fn poll_open(&self, cx: &mut Context<'_>) -> Poll<Passage> {
        let mut state = self.state();
        if matches!(state.passage, Passage::Shut | Passage::Over) {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(state.passage)
    }

    /// The wire has handed over a whole head.
    pub(super) fn shut(&self) {
        self.state().passage = Passage::Shut;
    }

    /// The wire has handed over [`REFUSED`], because of this.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let mut state = self.state();
        state.refusal = Some(refusal);
        state.passage = Passage::Over;
    }

    /// The service asks, first of all: the refusal of the head that is with it.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        self.state().refusal.take()
    }

    /// Whether there was a request and its answer.
    pub(super) fn has_answered(&self) -> bool {
        self.state().has_answered
    }

    /// The place is wanted: a closing wire takes what is there already and listens no longer.
    pub(super) fn hurry(&self) {
        self.state().is_hurried = true;
    }

    /// The connection is to end: the wire takes what is there already, and no request after.
    pub(super) fn leave(&self) {
        self.state().is_leaving = true;
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.state().is_leaving
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.state().is_hurried
    }

    /// The service has a request with a body.
    pub(super) fn open_for_body(&self) {
        self.open(Passage::Body);
    }

    /// The service has its answer, and it is not that the wire becomes a WebSocket. The gate opens
    /// when what this gives is dropped: with the end of the answer.
    pub(super) fn answered(&self) -> Turn {
        self.state().has_answered = true;
        Turn(self.clone())
    }

    fn open(&self, passage: Passage) {
        let mut state = self.state();
        if state.passage != Passage::Shut {
            return;
        }
        state.passage = passage;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}
