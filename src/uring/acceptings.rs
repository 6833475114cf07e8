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
    /// Accepts of this epoch that have not ended.
    armed: usize,
    /// Each accepts one connection and ends.
    single: bool,
    /// They were asked to stop, and have not ended yet.
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
        let accepting = self.0[listener];
        if accepting.armed > 0 && !accepting.stopping && !accepting.single {
            return None;
        }
        Some(self.begin(listener, 1, false))
    }

    /// Arms a listener for so many connections; how many accepts that takes besides those that
    /// are armed.
    pub(super) fn arm_some(&mut self, listener: usize, count: usize) -> (Tag, usize) {
        let accepting = &mut self.0[listener];
        if accepting.armed > 0 && (accepting.stopping || !accepting.single) {
            return (self.begin(listener, count, true), count);
        }
        let more = count.saturating_sub(accepting.armed);
        if accepting.armed == 0 {
            return (self.begin(listener, more, true), more);
        }
        accepting.armed += more;
        (self.tag(listener), more)
    }

    fn begin(&mut self, listener: usize, armed: usize, single: bool) -> Tag {
        let epoch = self.0[listener].epoch.wrapping_add(1);
        self.0[listener] = Accepting { epoch, armed, single, stopping: false };
        self.tag(listener)
    }

    /// What has to be cancelled for a listener to stop.
    pub(super) fn stop(&mut self, listener: usize) -> Option<Tag> {
        let is_armed = self.0[listener].armed > 0;
        self.0[listener].stopping = is_armed;
        is_armed.then(|| self.tag(listener))
    }

    /// An accept has ended, with a connection or without: whether that is the end of accepting
    /// that somebody has to hear of.
    pub(super) fn ends(&mut self, tag: Tag, accepted: bool) -> bool {
        let listener = usize::try_from(tag.subject % LISTENERS_MAX).unwrap_or(usize::MAX);
        let Some(accepting) = self.0.get_mut(listener) else { return false };
        if accepting.armed == 0 || tag.subject / LISTENERS_MAX != u64::from(accepting.epoch) {
            return false;
        }
        accepting.armed -= 1;
        !(accepting.single && accepted)
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
