//! Turns what the kernel counted between two moments into whether this box is quiet.
//!
//! In:    `/proc/stat`, `/proc/loadavg`, the processes' CPU time.
//! Out:   reasons not to measure now; how much others took while it was measured.
//! Never: touches a process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long a look takes.
pub const LOOK: Duration = Duration::from_secs(1);
/// Looks before a box counts as loaded: what has just ended is not held against it.
const LOOKS: usize = 3;
/// Percent of the CPUs that others may use.
const BUSY_PERCENT: f64 = 10.0;
/// Percent that the host may take for other boxes.
const STEAL_PERCENT: f64 = 2.0;
/// Load average of a minute, a CPU. It remembers what is over (a run of our own leaves 1), so only
/// a long queue counts.
const LOAD_A_CPU: f64 = 2.0;
/// Percent of one CPU from which a process is named.
const NAMED_PERCENT: f64 = 5.0;
/// Processes that are named at most.
const NAMED_MOST: usize = 3;

/// What was counted until a moment, in ticks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Ticks of the CPUs that this process may use: all, those at work, those that the host took.
    all: u64,
    busy: u64,
    steal: u64,
    /// By process: its name and its ticks.
    processes: BTreeMap<u32, (String, u64)>,
}

/// What happened between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Percent of the CPUs that were at work.
    pub busy_percent: f64,
    /// Percent that the host took.
    pub steal_percent: f64,
    /// The load average of the last minute.
    pub load: f64,
    /// Who was at work: name, process, percent of one CPU; the busiest first.
    pub named: Vec<(String, u32, f64)>,
}

impl Moment {
    /// Now, on these CPUs.
    #[must_use]
    pub fn now(cpus: &[usize]) -> Self {
        Self::read(Path::new("/proc"), cpus)
    }

    fn read(proc: &Path, cpus: &[usize]) -> Self {
        let mut moment = Self::default();
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
        for line in stat.lines() {
            let Some((name, ticks)) = line.split_once(' ') else { continue };
            let cpu = name.strip_prefix("cpu").and_then(|number| number.parse().ok());
            if cpu.is_some_and(|cpu| cpus.contains(&cpu)) {
                moment.add(ticks);
            }
        }
        for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if let Some(process) = process(&stat) {
                moment.processes.insert(pid, process);
            }
        }
        moment
    }

    /// A CPU's line: user, nice, system, idle, iowait, irq, softirq, steal.
    fn add(&mut self, ticks: &str) {
        let ticks: Vec<u64> =
            ticks.split_whitespace().take(8).map(|ticks| ticks.parse().unwrap_or(0)).collect();
        let at = |place: usize| ticks.get(place).copied().unwrap_or(0);
        self.all += ticks.iter().sum::<u64>();
        self.busy += at(0) + at(1) + at(2) + at(5) + at(6);
        self.steal += at(7);
    }

    /// What happened until a later moment. Processes that began meanwhile count from their start.
    #[must_use]
    pub fn until(&self, later: &Self, load: f64, cpus: usize) -> Look {
        let all = later.all.saturating_sub(self.all).max(1) as f64;
        let percent = |ticks: u64, before: u64| 100.0 * ticks.saturating_sub(before) as f64 / all;
        // Percent of one CPU.
        let one = 100.0 * cpus.max(1) as f64 / all;
        let own = std::process::id();
        let mut named: Vec<_> = later
            .processes
            .iter()
            .filter(|(pid, _)| **pid != own)
            .map(|(pid, (name, ticks))| {
                let before = self.processes.get(pid).map_or(0, |(_, ticks)| *ticks);
                (name.clone(), *pid, ticks.saturating_sub(before) as f64 * one)
            })
            .filter(|(_, _, percent)| *percent >= NAMED_PERCENT)
            .collect();
        named.sort_by(|a, b| b.2.total_cmp(&a.2));
        Look {
            busy_percent: percent(later.busy, self.busy),
            steal_percent: percent(later.steal, self.steal),
            load,
            named,
        }
    }

    /// Percent of the CPUs that others used until a later moment, where `own` is the CPU time that
    /// this process and its children used meanwhile.
    #[must_use]
    pub fn others_percent(&self, later: &Self, own: Duration) -> f64 {
        let ticks = own.as_secs_f64() * rustix::param::clock_ticks_per_second() as f64;
        let all = later.all.saturating_sub(self.all).max(1) as f64;
        let others = later.busy.saturating_sub(self.busy) as f64 - ticks;
        (100.0 * others / all).clamp(0.0, 100.0)
    }
}

/// Name and ticks of a process, from its `stat`.
fn process(stat: &str) -> Option<(String, u64)> {
    // The name may hold spaces and brackets.
    let (name, fields) = stat.rsplit_once(") ")?;
    let (_, name) = name.split_once('(')?;
    let ticks = |place| fields.split(' ').nth(place)?.parse::<u64>().ok();
    Some((name.to_owned(), ticks(11)? + ticks(12)?))
}

impl Look {
    /// Why nothing should be measured now, a few words each; empty on a quiet box.
    #[must_use]
    pub fn reasons(&self, cpus: usize) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.busy_percent > BUSY_PERCENT {
            let who: Vec<_> = self.named.iter().take(NAMED_MOST).map(who).collect();
            let who = if who.is_empty() { String::new() } else { format!(": {}", who.join(", ")) };
            let busy = self.busy_percent;
            reasons.push(format!("the CPUs are {busy:.0} % busy{who}"));
        }
        if self.steal_percent > STEAL_PERCENT {
            let steal = self.steal_percent;
            reasons
                .push(format!("the host takes {steal:.0} % of the CPUs for other boxes (steal)"));
        }
        if self.load > LOAD_A_CPU * cpus as f64 {
            reasons.push(format!("the load average is {:.1}", self.load));
        }
        reasons
    }
}

fn who((name, pid, percent): &(String, u32, f64)) -> String {
    format!("{name} (process {pid}, {percent:.0} % of a CPU)")
}

/// Looks until the box is quiet, or for three looks; the last one.
#[must_use]
pub fn look(cpus: &[usize]) -> Look {
    let mut last = Look::default();
    for _ in 0..LOOKS {
        let before = Moment::now(cpus);
        std::thread::park_timeout(LOOK);
        last = before.until(&Moment::now(cpus), load_average(), cpus.len());
        if last.reasons(cpus.len()).is_empty() {
            break;
        }
    }
    last
}

/// The load average of the last minute; 0 where there is none.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` with two CPUs and two processes.
    fn moment(cpus: [&str; 2], compiler: u64) -> Moment {
        let folder = tempfile::tempdir().unwrap();
        let stat = format!("cpu  0 0 0\ncpu0 {}\ncpu1 {}\nintr 5\n", cpus[0], cpus[1]);
        std::fs::write(folder.path().join("stat"), stat).unwrap();
        for (pid, name, ticks) in [(71, "cc (1) x", compiler), (72, "sleeper", 3)] {
            let process = folder.path().join(pid.to_string());
            std::fs::create_dir(&process).unwrap();
            let line = format!("{pid} ({name}) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 5 0 0 20 0 1 0 9\n");
            std::fs::write(process.join("stat"), line).unwrap();
        }
        Moment::read(folder.path(), &[0, 1])
    }

    #[test]
    fn a_quiet_box_gives_no_reason() {
        let before = moment(["100 0 50 1000 0 0 0 0", "100 0 50 1000 0 0 0 0"], 10);
        let after = moment(["101 0 51 1098 0 0 0 0", "100 0 50 1100 0 0 0 0"], 11);
        let look = before.until(&after, 1.6, 2);
        assert!((look.busy_percent - 1.0).abs() < 1e-9, "{look:?}");
        assert_eq!(look.reasons(2), [""; 0], "a run that has just ended leaves a load average");
    }

    #[test]
    fn who_keeps_it_busy_is_named() {
        let before = moment(["100 0 50 1000 0 0 0 0", "100 0 50 1000 0 0 0 0"], 10);
        let after = moment(["199 0 51 1000 0 0 0 0", "100 0 50 1100 0 0 0 0"], 109);
        let reasons = before.until(&after, 0.5, 2).reasons(2);
        assert_eq!(
            reasons,
            ["the CPUs are 50 % busy: cc (1) x (process 71, 99 % of a CPU)"],
            "the sleeper is not"
        );
    }

    #[test]
    fn steal_and_a_long_queue_are_reasons() {
        let before = moment(["100 0 50 1000 0 0 0 0", "100 0 50 1000 0 0 0 0"], 10);
        let after = moment(["100 0 50 1090 0 0 0 10", "100 0 50 1100 0 0 0 0"], 10);
        let reasons = before.until(&after, 4.1, 2).reasons(2);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[0].contains("5 %") && reasons[1].contains("4.1"), "{reasons:?}");
    }

    #[test]
    fn what_others_took_is_what_is_left_of_the_work() {
        let before = moment(["0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0"], 0);
        let after = moment(["80 0 20 0 0 0 0 0", "0 0 0 100 0 0 0 0"], 0);
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let own = Duration::from_secs_f64(60.0 * tick);
        assert!((before.others_percent(&after, own) - 20.0).abs() < 1e-6);
        assert_eq!(before.others_percent(&after, own * 10), 0.0);
    }

    #[test]
    fn this_box_can_be_looked_at() {
        let cpus = crate::probe::cpus();
        let (before, own) = (Moment::now(&cpus), std::process::id());
        assert!(before.processes.contains_key(&own) && before.all > 0);
    }
}
