//! Turns what the kernel has counted since the box started into checks.
//!
//! In:    `/proc/net/netstat`, `/proc/net/softnet_stat`.
//! Out:   a warning where something was lost that a setting could have kept.
//! Never: warns where the setting already is what it would advise: the counters never go back.

use super::check::Check;
use super::patient::Patient;

/// What a queue is advised to be.
const QUEUE: u64 = 65_535;
/// The same of packets that wait for a CPU.
const BACKLOG: u64 = 16_384;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The counters of these names, summed; and how they are told.
fn sum(patient: &Patient, names: &[&str]) -> Option<(u64, String)> {
    let found: Vec<_> =
        names.iter().filter_map(|name| Some((*name, patient.root.netstat(name)?))).collect();
    let told: Vec<_> = found.iter().map(|(name, number)| format!("{name} {number}")).collect();
    (!found.is_empty()).then(|| (found.iter().map(|(_, number)| number).sum(), told.join(", ")))
}

/// Clients that found a full queue.
pub(super) fn listen_queue(patient: &Patient) -> Vec<Check> {
    let check = Check::of("counted.listen_queue");
    let names = ["ListenOverflows", "ListenDrops", "TCPReqQFullDrop"];
    let Some((lost, told)) = sum(patient, &names) else {
        return vec![check.skip("/proc/net/netstat cannot be read here")];
    };
    let check = check.measured(told);
    let queues = ["net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"];
    let small = queues.iter().any(|name| patient.root.sysctl(name).is_some_and(|n| n < QUEUE));
    if lost == 0 || !small {
        return vec![check.pass("what listeners lost, since the box started")];
    }
    let fix = queues.map(|name| format!("{name}={QUEUE}")).join(" ");
    let message =
        "clients found a full queue and tried again a second later, since the box started";
    vec![check.warn(message, format!("sysctl -w {fix}"))]
}

/// Times that TCP had no memory.
pub(super) fn tcp_memory(patient: &Patient) -> Vec<Check> {
    let check = Check::of("counted.tcp_memory");
    let names = ["TCPMemoryPressures", "TCPAbortOnMemory", "RcvPruned", "OfoPruned"];
    let Some((lost, told)) = sum(patient, &names) else {
        return vec![check.skip("/proc/net/netstat cannot be read here")];
    };
    let check = check.measured(told);
    let wanted = patient.facts.memory.total / PAGE / 2;
    let small = patient.facts.tcp_mem.is_some_and(|[.., high]| high < wanted);
    if lost == 0 || !small {
        return vec![check.pass("what TCP lost for want of memory, since the box started")];
    }
    let message = "TCP had no memory for what was sent, since the box started";
    let marks = format!("{} {} {wanted}", wanted / 2, wanted / 3 * 2);
    vec![check.warn(message, format!("sysctl -w net.ipv4.tcp_mem=\"{marks}\""))]
}

/// Packets that found the queue of a CPU full.
pub(super) fn input_queue(patient: &Patient) -> Vec<Check> {
    let check = Check::of("counted.input_queue");
    let Some(text) = patient.root.text("proc/net/softnet_stat") else {
        return vec![check.skip("/proc/net/softnet_stat cannot be read here")];
    };
    // The second column of each CPU's line, in hexadecimal.
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    let dropped: u64 = text.lines().filter_map(column).sum();
    let check = check.measured(format!("{dropped} packets dropped"));
    let name = "net.core.netdev_max_backlog";
    let small = patient.root.sysctl(name).is_some_and(|backlog| backlog < BACKLOG);
    if dropped == 0 || !small {
        return vec![check.pass("what CPUs had no room for, since the box started")];
    }
    let message =
        "packets found a CPU's queue full and had to be sent again, since the box started";
    vec![check.warn(message, format!("sysctl -w {name}={BACKLOG}"))]
}
