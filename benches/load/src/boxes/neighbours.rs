//! What the box does meanwhile for whoever is none of ours.
//!
//! In:    `/proc`.
//! Out:   the share of all cores that went to others: above a tenth a figure is no record.
//! Never: judges.

use std::io;

/// From a moment on.
#[derive(Debug)]
pub struct Neighbours(Ticks);

/// Clock ticks of all cores so far.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    all: u64,
    busy: u64,
    ours: u64,
}

impl Neighbours {
    /// From now on.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn watch() -> io::Result<Self> {
        Ok(Self(ticks()?))
    }

    /// In percent of all cores, since then.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn percent(&self) -> io::Result<f64> {
        let (then, now) = (self.0, ticks()?);
        let others = (now.busy - then.busy).saturating_sub(now.ours.saturating_sub(then.ours));
        Ok(100.0 * others as f64 / (now.all - then.all).max(1) as f64)
    }
}

fn ticks() -> io::Result<Ticks> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is within user.
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields[..] else {
        return Err(io::Error::other("/proc/stat has no such line"));
    };
    let busy = user + nice + system + irq + softirq + steal;
    Ok(Ticks { all: busy + idle + iowait, busy, ours: ours()? })
}

/// Ticks of this process, its children, and those of them that have ended.
fn ours() -> io::Result<u64> {
    let me = std::process::id();
    let mut ours = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        // A process that has just ended is not ours: ours are waited for, and then counted in us.
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        let Some((pid, rest)) = stat.split_once(' ') else { continue };
        let Some((_, rest)) = rest.rsplit_once(") ") else { continue };
        let field = |at: usize| rest.split(' ').nth(at).and_then(|field| field.parse::<u64>().ok());
        let is_me = pid.parse() == Ok(me);
        if is_me || field(1) == Some(u64::from(me)) {
            // User and system time; of us also those of children that were waited for.
            let fields = if is_me { 11..15 } else { 11..13 };
            ours += fields.filter_map(field).sum::<u64>();
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_and_that_of_a_child_that_ended_are_not_the_neighbours() {
        let before = ticks().unwrap();
        let mut child =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        // Looking takes time of our own, and that is not what is looked for.
        while ticks().unwrap().ours < before.ours + 20 {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let after = ticks().unwrap();
        // The kernel rounds user and system time of each process down by itself.
        assert!(after.ours >= before.ours + 15, "{before:?} {after:?}");
        assert!(after.busy > before.busy && after.all >= after.busy, "{before:?} {after:?}");
    }
}
