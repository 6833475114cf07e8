//! Turns the clock into checks.
//!
//! In:    the kernel's clock source; what a time daemon leaves behind.
//! Out:   whether reading it is cheap, and whether it is right.
//! Never: asks a time server.

use super::check::Check;
use super::patient::Patient;

const FOLDER: &str = "sys/devices/system/clocksource/clocksource0";
/// Read in user space, or nearly.
const FAST: [&str; 5] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "stp"];

/// What the kernel reads the time from.
pub(super) fn clocksource(patient: &Patient) -> Vec<Check> {
    let check = Check::of("clock");
    let Some(current) = patient.root.text(&format!("{FOLDER}/current_clocksource")) else {
        return vec![check.skip("the clock source cannot be read here")];
    };
    let current = current.trim();
    let check = check.measured(current);
    if FAST.contains(&current) {
        return vec![check.pass("reading the time costs nanoseconds")];
    }
    let available = patient.root.text(&format!("{FOLDER}/available_clocksource"));
    let available = available.unwrap_or_default();
    let better = available.split_whitespace().find(|name| FAST.contains(name));
    let message = "each turn of a shard reads the time, and this clock takes microseconds for it";
    vec![match better {
        Some(name) => check.warn(message, format!("echo {name} > /{FOLDER}/current_clocksource")),
        None => check.warn(message, "clocksource=tsc   # on the kernel's command line"),
    }]
}

/// Signs that a time daemon keeps the clock right.
const SIGNS: [(&str, &str); 3] = [
    ("run/systemd/timesync/synchronized", "systemd-timesyncd"),
    ("run/chrony/chronyd.pid", "chrony"),
    ("run/ntpd.pid", "ntpd"),
];

/// Whether somebody keeps it right.
pub(super) fn synchronised(patient: &Patient) -> Vec<Check> {
    let check = Check::of("clock_sync");
    let keeper = SIGNS.iter().find(|(sign, _)| patient.root.text(sign).is_some());
    vec![match keeper {
        Some((_, keeper)) => check.measured(*keeper).pass("it keeps this box's time"),
        None => check.skip(
            "no time daemon is known to run here; the server needs no true time, whoever reads \
             its log and its metrics does",
        ),
    }]
}
