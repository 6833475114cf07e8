//! Turns how far a run is into a bar on a terminal.
//!
//! In:    trials that are planned and done; what is going on.
//! Out:   one line on stderr, a few times a second.
//! Never: writes where nobody looks.

use std::time::Instant;

use crate::bench::Progress;

/// Characters of the bar.
const WIDTH: usize = 30;

/// See the module.
#[derive(Debug)]
pub struct Bar {
    line: Progress,
    begin: Instant,
    planned: usize,
    done: usize,
    doing: String,
}

impl Bar {
    /// A bar of so many trials, if it is wanted and stderr is a terminal.
    #[must_use]
    pub fn new(wanted: bool, planned: usize) -> Self {
        let line = Progress::new(wanted);
        Self { line, begin: Instant::now(), planned, done: 0, doing: String::new() }
    }

    /// One that nobody sees.
    #[must_use]
    pub fn hidden() -> Self {
        Self::new(false, 0)
    }

    /// Trials that are over.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// What is going on from now on.
    pub fn say(&mut self, doing: &str) {
        doing.clone_into(&mut self.doing);
        self.show();
    }

    /// A trial is over.
    pub fn step(&mut self) {
        self.done += 1;
        self.show();
    }

    /// So many are over, or need not be run.
    pub fn skip_to(&mut self, done: usize) {
        self.done = self.done.max(done);
        self.show();
    }

    fn show(&mut self) {
        let elapsed = self.begin.elapsed();
        let now = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let (done, planned, doing) = (self.done, self.planned, &self.doing);
        self.line.show(now, || drawn(done, planned, elapsed.as_secs(), doing));
    }
}

fn drawn(done: usize, planned: usize, seconds: u64, doing: &str) -> String {
    let share = (done as f64 / planned.max(1) as f64).min(1.0);
    let full = (share * WIDTH as f64) as usize;
    let (full, rest) = ("#".repeat(full), "-".repeat(WIDTH - full));
    format!("tune [{full}{rest}] {:3.0} %  {seconds} s  {doing}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_never_overflows() {
        let at = |done, planned| drawn(done, planned, 12, "receive, round 2");
        assert_eq!(at(0, 4), format!("tune [{}]   0 %  12 s  receive, round 2", "-".repeat(30)));
        assert!(at(2, 4).contains(&format!("[{}{}]  50 %", "#".repeat(15), "-".repeat(15))));
        assert!(at(9, 4).contains(&format!("[{}] 100 %", "#".repeat(30))));
        assert!(at(0, 0).contains("  0 %"), "nothing is planned");
    }

    #[test]
    fn what_is_skipped_counts_as_done() {
        let mut bar = Bar::hidden();
        bar.step();
        bar.skip_to(5);
        bar.skip_to(3);
        assert_eq!(bar.done(), 5);
    }
}
