//! Tells the other shards whether a shard sleeps and has to be rung.
//!
//! In:    a shard that falls asleep and wakes up; senders whose mail is visible.
//! Out:   whether to ring.
//! Never: carries the mail, or rings.
//!
//! # Invariants
//! - Whoever sleeps was rung, or nobody had mail for it (`tests/loom_bell.rs` tries every order).

use super::sync::{AtomicBool, Ordering, fence};

/// Tells whether a shard sleeps.
///
/// The sleeper says so, then looks into its mailbox once more; a sender makes its mail visible,
/// then looks whether the receiver sleeps. With a sequentially consistent fence between the two
/// steps on both sides, at least one of them sees the other.
#[derive(Debug, Default)]
pub struct Bell {
    sleeping: AtomicBool,
}

impl Bell {
    /// The shard is about to sleep; it must look for mail after this and before it does.
    pub fn fall_asleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub fn wake_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether the shard has to be rung, now that its mail is visible. True once a sleep.
    #[must_use]
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}
