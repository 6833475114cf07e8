//! Turns a close that comes too early, while a half-close is under way, into one in time.
//!
//! In:    half-closes begun and ended; closes.
//! Out:   slots that can be closed now.
//! Never: submits anything.
//!
//! A half-close is what the kernel gives to a worker thread, always, and the worker looks the slot
//! up when it gets to it. Were the slot closed by then, and somebody else accepted into it, that
//! one's stream would end.
//!
//! # Invariants
//! - A slot is closed at once, or held here until the half-close of its connection has ended.

use std::collections::HashMap;

/// Half-closes under way, by slot.
pub(super) struct HalfCloses {
    /// Whether the slot is to be closed after it.
    under_way: HashMap<u32, bool>,
    due: Vec<u32>,
}

impl HalfCloses {
    /// None.
    pub(super) fn new() -> Self {
        Self { under_way: HashMap::new(), due: Vec::new() }
    }

    /// A half-close begins; `false` where one is under way, and this one has to be left out.
    #[must_use]
    pub(super) fn begin(&mut self, slot: u32) -> bool {
        self.under_way.insert(slot, false).is_none()
    }

    /// A half-close has ended, well or not.
    pub(super) fn end(&mut self, slot: u32) {
        if self.under_way.remove(&slot) == Some(true) {
            self.due.push(slot);
        }
    }

    /// Whether a close has to wait: then the slot is due when the half-close has ended.
    #[must_use]
    pub(super) fn holds(&mut self, slot: u32) -> bool {
        match self.under_way.get_mut(&slot) {
            Some(closes) => {
                *closes = true;
                true
            }
            None => false,
        }
    }

    /// The next slot to be closed.
    pub(super) fn due(&mut self) -> Option<u32> {
        self.due.pop()
    }

    /// Whether no slot is to be closed now.
    pub(super) fn idle(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_waits_for_the_half_close_of_its_slot_alone() {
        let mut half_closes = HalfCloses::new();
        assert!(half_closes.begin(7));
        assert!(!half_closes.begin(7), "once is enough");
        assert!(!half_closes.holds(8));
        assert!(half_closes.holds(7));
        assert!(half_closes.idle());
        half_closes.end(7);
        assert!(!half_closes.idle());
        assert_eq!((half_closes.due(), half_closes.due()), (Some(7), None));
        assert!(!half_closes.holds(7), "it is over");
    }

    #[test]
    fn a_half_close_alone_closes_nothing() {
        let mut half_closes = HalfCloses::new();
        assert!(half_closes.begin(7));
        half_closes.end(7);
        half_closes.end(8);
        assert_eq!(half_closes.due(), None);
    }
}
