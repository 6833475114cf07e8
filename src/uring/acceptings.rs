//! Which listeners accept, so that each is armed once and a stale end is not taken for a new one.
//!
//! In:    armings and ends of accepts, by listener.
//! Out:   tags; whether an end belongs to what is armed now.
//! Never: talks to the kernel.
//!
//! # Invariants
//! - Nothing is armed at a listener while what was stopped there has not ended: until then it
//!   stands first in the kernel's exclusive queue of who waits, takes the calls for newcomers, and
//!   does nothing with them. Newcomers would sit in the backlog until the next one comes.

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
    /// What is to be armed once they have.
    wanted: Wanted,
}

/// What to arm at a listener.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    #[default]
    Nothing,
    /// One accept that goes on.
    Freely,
    /// So many that accept one connection each.
    Some(usize),
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

    /// Arms a listener, unless it is; where it is stopping, it is `due` later.
    pub(super) fn arm(&mut self, listener: usize) -> Option<Tag> {
        let accepting = &mut self.0[listener];
        if accepting.stopping {
            accepting.wanted = Wanted::Freely;
            return None;
        }
        if accepting.armed > 0 && !accepting.single {
            return None;
        }
        Some(self.begin(listener, 1, false))
    }

    /// Arms a listener for so many connections; how many accepts that takes besides those that
    /// are armed. None where it is stopping: then it is `due` later.
    pub(super) fn arm_some(&mut self, listener: usize, count: usize) -> (Tag, usize) {
        let accepting = &mut self.0[listener];
        if accepting.stopping {
            accepting.wanted = Wanted::Some(count);
            return (self.tag(listener), 0);
        }
        if accepting.armed > 0 && !accepting.single {
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
        let (stopping, wanted) = (false, Wanted::Nothing);
        self.0[listener] = Accepting { epoch, armed, single, stopping, wanted };
        self.tag(listener)
    }

    /// What has to be cancelled for a listener to stop.
    pub(super) fn stop(&mut self, listener: usize) -> Option<Tag> {
        let accepting = &mut self.0[listener];
        accepting.wanted = Wanted::Nothing;
        if accepting.armed == 0 || accepting.stopping {
            return None;
        }
        accepting.stopping = true;
        Some(self.tag(listener))
    }

    /// A listener whose stopping is over and what is wanted of it since, once.
    pub(super) fn due(&mut self) -> Option<(usize, Wanted)> {
        let is_due = |one: &Accepting| !one.stopping && one.wanted != Wanted::Nothing;
        let listener = self.0.iter().position(is_due)?;
        Some((listener, std::mem::take(&mut self.0[listener].wanted)))
    }

    /// Whether none is due.
    pub(super) fn idle(&self) -> bool {
        self.0.iter().all(|one| one.stopping || one.wanted == Wanted::Nothing)
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
        accepting.stopping &= accepting.armed > 0;
        let goes_on = accepting.wanted != Wanted::Nothing || (accepting.single && accepted);
        !goes_on
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stopped_ends_before_anything_else_is_armed() {
        let mut acceptings = Acceptings::new(1);
        let (tag, more) = acceptings.arm_some(0, 2);
        assert_eq!(more, 2);
        assert_eq!(acceptings.stop(0), Some(tag));
        assert_eq!(acceptings.stop(0), None, "once");
        assert_eq!(acceptings.arm(0), None);
        assert!(!acceptings.ends(tag, false), "nobody's news: it goes on");
        assert!(acceptings.idle() && acceptings.due().is_none(), "one has not ended");
        assert!(!acceptings.ends(tag, true), "it took one more");
        assert!(!acceptings.idle());
        assert_eq!(acceptings.due(), Some((0, Wanted::Freely)));
        assert!(acceptings.due().is_none());
        let standing = acceptings.arm(0).unwrap();
        assert!(!acceptings.ends(tag, false), "a stale end");
        acceptings.stop(0);
        assert_eq!(acceptings.arm_some(0, 3).1, 0);
        assert!(!acceptings.ends(standing, false));
        assert_eq!(acceptings.due(), Some((0, Wanted::Some(3))));
    }

    #[test]
    fn a_stop_takes_back_what_was_wanted() {
        let mut acceptings = Acceptings::new(1);
        let tag = acceptings.arm(0).unwrap();
        acceptings.stop(0);
        assert_eq!(acceptings.arm(0), None);
        acceptings.stop(0);
        assert!(acceptings.ends(tag, false), "somebody has to hear of it");
        assert!(acceptings.idle() && acceptings.due().is_none());
    }
}
