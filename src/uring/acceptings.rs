//! Which listeners accept, so that each is armed once and a stale end is not taken for a new one.
//!
//! In:    armings and ends of accepts, by listener.
//! Out:   tags; whether an end belongs to what is armed now.
//! Never: talks to the kernel.

use super::tag::{Kind, Tag};

/// Listeners that one ring may have: the low bits of an accept's tag.
const LISTENERS_MAX: u64 = 1 << 8;

#[derive(Debug, Default, Clone, Copy)]
struct Accepting {
    /// Which arming it is.
    epoch: u32,
    armed: bool,
    /// It was asked to stop, and has not ended yet.
    stopping: bool,
}

/// All listeners of a ring.
#[derive(Debug)]
pub(super) struct Acceptings(Vec<Accepting>);

impl Acceptings {
    /// None of so many is armed.
    pub(super) fn new(listeners: usize) -> Self {
        assert!((listeners as u64) <= LISTENERS_MAX, "at most {LISTENERS_MAX} listeners a ring");
        Self(vec![Accepting::default(); listeners])
    }

    /// Arms a listener, unless it is.
    pub(super) fn arm(&mut self, listener: usize) -> Option<Tag> {
        let accepting = &mut self.0[listener];
        if accepting.armed && !accepting.stopping {
            return None;
        }
        let epoch = accepting.epoch.wrapping_add(1);
        *accepting = Accepting { epoch, armed: true, stopping: false };
        Some(self.tag(listener))
    }

    /// What has to be cancelled for a listener to stop.
    pub(super) fn stop(&mut self, listener: usize) -> Option<Tag> {
        self.0[listener].stopping = self.0[listener].armed;
        self.0[listener].armed.then(|| self.tag(listener))
    }

    /// Whether this end is that of what is armed now; then it no longer is.
    pub(super) fn ends(&mut self, tag: Tag) -> bool {
        let listener = usize::try_from(tag.subject % LISTENERS_MAX).unwrap_or(usize::MAX);
        let Some(accepting) = self.0.get_mut(listener) else { return false };
        let current = accepting.armed && tag.subject / LISTENERS_MAX == u64::from(accepting.epoch);
        accepting.armed &= !current;
        current
    }

    /// Listeners, armed or not.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn tag(&self, listener: usize) -> Tag {
        let epoch = u64::from(self.0[listener].epoch);
        Tag::new(Kind::Accept, epoch * LISTENERS_MAX + listener as u64)
    }
}
