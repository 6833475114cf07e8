//! Turns what is going on into one line on a terminal.
//!
//! In:    what a person who waits wants to know.
//! Out:   a line that replaces the last one, a few times a second.
//! Never: writes where nobody looks, or often enough to be noticed.

use std::io::{self, IsTerminal as _, Write as _};

/// Nanoseconds between two lines.
const PAUSE: u64 = 200_000_000;

/// The line.
#[derive(Debug)]
pub struct Progress {
    on: bool,
    next: u64,
}

impl Progress {
    /// On stderr, if that is a terminal and it is wanted.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Self { on: wanted && io::stderr().is_terminal(), next: 0 }
    }

    /// Says what is going on, if it is time to.
    #[inline]
    pub fn show(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.on && now >= self.next {
            self.next = now + PAUSE;
            self.write(&line());
        }
    }

    fn write(&self, line: &str) {
        // Nobody is left to tell where the terminal is gone.
        let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on {
            self.write("");
        }
    }
}
