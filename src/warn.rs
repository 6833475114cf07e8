//! Turns a flood of one warning into one line a second.
//!
//! In:    the moment at which a shard has reason to warn.
//! Out:   whether to, and how many warnings were held back since the last.
//! Never: logs (the owner does), or is shared: one `Quiet` a kind of warning and owner.

use std::time::Duration;

use crate::time::Now;

/// Pause between two warnings of one kind.
const PAUSE: Duration = Duration::from_secs(1);

/// Holds warnings of one kind back to one a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    /// Before this moment nothing is said.
    until: Now,
    suppressed: u64,
}

impl Quiet {
    /// Whether to warn now: `Some` of how many were suppressed since the last that was allowed.
    pub fn allow(&mut self, now: Now) -> Option<u64> {
        if now < self.until {
            self.suppressed += 1;
            return None;
        }
        self.until = now.after(PAUSE);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_a_second_says_how_many_it_stands_for() {
        let mut quiet = Quiet::default();
        assert_eq!(quiet.allow(Now(0)), Some(0), "the first is always said");
        assert_eq!(quiet.allow(Now(1)), None);
        assert_eq!(quiet.allow(Now(999)), None);
        assert_eq!(quiet.allow(Now(1000)), Some(2));
        assert_eq!(quiet.allow(Now(5000)), Some(0), "the count starts anew");
    }
}
