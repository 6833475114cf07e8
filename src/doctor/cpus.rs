//! Turns what others take of this box's CPUs into checks.
//!
//! In:    the control group's CPU quota, `/proc/stat`.
//! Out:   whether a shard can run when it has to.
//! Never: measures speed.

use super::check::Check;
use super::patient::Patient;

/// Parts of a hundred of the time, taken by the host, from which a shard feels it.
const STEAL_PERCENT: f64 = 2.0;

/// What a control group leaves.
struct Quota {
    folder: String,
    /// CPUs' worth of time.
    cpus: f64,
}

/// The tightest quota.
fn tightest(patient: &Patient) -> Option<Quota> {
    let root = &patient.root;
    let quotas = root.groups("cpu").into_iter().filter_map(|folder| {
        let (quota, period) = match root.text(&format!("{folder}/cpu.max")) {
            Some(text) => {
                let mut words = text.split_whitespace().map(str::parse::<f64>);
                // "max" is no number and no quota.
                (words.next()?.ok()?, words.next()?.ok()?)
            }
            None => {
                let quota = root.text(&format!("{folder}/cpu.cfs_quota_us"))?;
                let period = root.number(&format!("{folder}/cpu.cfs_period_us"))?;
                (quota.trim().parse::<f64>().ok()?, period as f64)
            }
        };
        // Version 1 spells "no quota" as -1.
        (quota > 0.0 && period > 0.0).then(|| Quota { folder, cpus: quota / period })
    });
    quotas.min_by(|a, b| a.cpus.total_cmp(&b.cpus))
}

/// The control group's CPU time.
pub(super) fn quota(patient: &Patient) -> Vec<Check> {
    let check = Check::of("cpu_quota");
    let Some(quota) = tightest(patient) else {
        return vec![check.measured("no quota").pass("no control group bounds the CPU time")];
    };
    let stat = patient.root.text(&format!("{}/cpu.stat", quota.folder)).unwrap_or_default();
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    let throttled: u64 = throttled.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    let cpus = patient.facts.cpus.len();
    let check = check.measured(format!("{:.2} of {cpus} CPUs", quota.cpus));
    let check = check.limit(format!("throttled {throttled} times"));
    let fix = "CPUQuota=   # in the unit; of a container: no CPU limit, or whole CPUs pinned with \
               a cpuset";
    if quota.cpus < cpus as f64 {
        let message = "a shard on each CPU, and time for fewer: when it is used up every shard \
                       stands still until the next period";
        return vec![check.warn(message, fix)];
    }
    if throttled > 0 {
        let message = "the group has been throttled: every shard then stands still";
        return vec![check.warn(message, fix)];
    }
    vec![check.pass("time for every CPU")]
}

/// What the host took since the box started.
pub(super) fn steal(patient: &Patient) -> Vec<Check> {
    let check = Check::of("cpu_steal");
    let text = patient.root.text("proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let (Some(stolen), all) = (ticks.get(7), ticks.iter().take(8).sum::<u64>()) else {
        return vec![check.skip("/proc/stat cannot be read here")];
    };
    let percent = *stolen as f64 * 100.0 / all.max(1) as f64;
    let check = check.measured(format!("{percent:.1} % since the box started"));
    if percent < STEAL_PERCENT {
        return vec![check.pass("the host leaves this box its CPUs")];
    }
    let message = "the host gives this box's CPUs to others: latency has gaps that no setting here \
                   can close";
    vec![check.warn(message, "dedicated CPUs from whoever runs the host")]
}
