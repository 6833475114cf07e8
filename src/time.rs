//! The clock, as far as anything below the shard may see it.
//!
//! In:    the host's monotonic clock, read once a turn.
//! Out:   `Now`, handed down as an argument.
//! Never: reads a clock (the host does).

use std::time::Duration;

/// Milliseconds since the process started; one value for a whole turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// The moment that lies `wait` after this one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// How long ago `earlier` was; zero if it lies ahead (a clock never runs backwards here).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Microseconds since the process started, modulo 2^32: for spans of less than 71 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(pub u32);

impl Stamp {
    /// Microseconds since `earlier`.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        u64::from(self.0.wrapping_sub(earlier.0))
    }
}

/// A duration in whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
