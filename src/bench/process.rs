//! Turns a server's process into what it costs.
//!
//! In:    its process number; `/proc`.
//! Out:   CPU time and memory of it and all its children, at a moment; the difference of two.
//! Never: touches the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::fault::Fault;

/// What a process and its children have used up, at a moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Nanoseconds on a CPU, a thread.
    threads: BTreeMap<u32, u64>,
    /// Ticks of user and of system time of all threads there ever were.
    user: u64,
    system: u64,
    /// Bytes in memory.
    pub rss_bytes: u64,
}

/// CPU time between two moments, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// All of it.
    pub cpu: f64,
    /// Outside of the kernel.
    pub user: f64,
    /// Within.
    pub system: f64,
}

impl Usage {
    /// Looks at a process.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(pid: u32) -> Result<Self, Fault> {
        let parents = parents();
        let mut usage = Self::default();
        let mut family = vec![pid];
        while let Some(member) = family.pop() {
            let process = format!("/proc/{member}");
            match usage.add(Path::new(&process)) {
                None if member == pid => {
                    return Err(Fault::new(format!(
                        "there is no process {pid}: has the server ended? (--pid)"
                    )));
                }
                // A child that has just ended; its parent has its time.
                _ => {}
            }
            family.extend(parents.iter().filter(|(_, parent)| **parent == member).map(|(c, _)| c));
        }
        Ok(usage)
    }

    fn add(&mut self, process: &Path) -> Option<()> {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let fields = stat_fields(&stat)?;
        // Its own, and that of children that have ended and were waited for.
        self.user += fields.get(11)? + fields.get(13)?;
        self.system += fields.get(12)? + fields.get(14)?;
        let statm = fs::read_to_string(process.join("statm")).ok()?;
        let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        self.rss_bytes += pages * rustix::param::page_size() as u64;
        for task in fs::read_dir(process.join("task")).ok()?.flatten() {
            let thread = task.file_name().to_str().and_then(|name| name.parse().ok());
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok());
            if let (Some(thread), Some(nanos)) = (thread, nanos) {
                self.threads.insert(thread, nanos);
            }
        }
        Some(())
    }

    /// What was spent since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Spent {
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let user = self.user.saturating_sub(earlier.user) as f64 * tick;
        let system = self.system.saturating_sub(earlier.system) as f64 * tick;
        let ticked = user + system;
        // The scheduler counts nanoseconds, a thread; ticks are ten milliseconds. But the time of a
        // thread that has ended is in the ticks alone.
        let before: BTreeSet<_> = earlier.threads.keys().collect();
        let ended = before.iter().any(|thread| !self.threads.contains_key(thread));
        let scheduled: u64 = self
            .threads
            .iter()
            .map(|(thread, nanos)| nanos - earlier.threads.get(thread).unwrap_or(&0).min(nanos))
            .sum();
        let cpu = if ended || scheduled == 0 { ticked } else { scheduled as f64 / 1e9 };
        let share = if ticked > 0.0 { user / ticked } else { 0.0 };
        Spent { cpu, user: cpu * share, system: cpu * (1.0 - share) }
    }
}

/// All processes, and the parent of each.
fn parents() -> BTreeMap<u32, u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let stat = pid.and_then(|_| fs::read_to_string(entry.path().join("stat")).ok());
        let parent = stat.and_then(|stat| stat_fields(&stat)?.get(1).copied());
        if let (Some(pid), Some(parent)) = (pid, parent.and_then(|p| u32::try_from(p).ok())) {
            parents.insert(pid, parent);
        }
    }
    parents
}

/// The numbers of a `stat` file behind the name, the state (no number) as 0: parent is 1, user
/// time 11, system time 12, those of ended children 13 and 14.
fn stat_fields(stat: &str) -> Option<Vec<u64>> {
    // The name may hold spaces and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_children_belong_to_it() {
        let own = std::process::id();
        let before = Usage::of(own).unwrap();
        assert!(before.rss_bytes > 1 << 16);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "while :; do :; done"]);
        let mut child = shell.spawn().unwrap();
        let mut spent = before.since(&before);
        while spent.cpu < 0.05 {
            spent = Usage::of(own).unwrap().since(&before);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((spent.user + spent.system - spent.cpu).abs() < 1e-9, "{spent:?}");
    }

    #[test]
    fn no_process_is_a_fault() {
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_field() {
        let fields = stat_fields("7 (a ) b) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n").unwrap();
        assert_eq!((fields[1], fields[11], fields[14]), (3, 13, 16));
    }
}
