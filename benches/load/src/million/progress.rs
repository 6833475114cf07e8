//! Turns a count into a bar for whoever watches.
//!
//! In:    how much is done, of how much.
//! Out:   a line on stderr, written over itself, where that is a terminal.
//! Never: costs anything where nobody watches.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);
const WIDTH: usize = 40;

/// A bar.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    goal: usize,
    began: Instant,
    shown: Option<Instant>,
    watched: bool,
}

impl Progress {
    /// Begins.
    pub fn new(what: &'static str, goal: usize) -> Self {
        Self { what, goal, began: Instant::now(), shown: None, watched: stderr().is_terminal() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, done: usize) {
        if !self.watched || self.shown.is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let bar = "#".repeat(done.min(self.goal) * WIDTH / self.goal.max(1));
        let seconds = self.began.elapsed().as_secs();
        let line = format!("\r[{bar:WIDTH$}] {done} of {} {}, {seconds} s ", self.goal, self.what);
        // A terminal that is gone is no reason to stop.
        let _ = stderr().write_all(line.as_bytes());
    }

    /// Wipes the bar; how long it took.
    pub fn end(self) -> Duration {
        if self.shown.is_some() {
            let _ = stderr().write_all(b"\r\x1b[K");
        }
        self.began.elapsed()
    }
}
