//! Turns what stands between a client's SYN and an accepted connection into checks.
//!
//! In:    sysctls of the network namespace.
//! Out:   how many clients may come at the same moment; what is better on than off.
//! Never: counts who is connected: queues bound only who is coming.

use super::check::{Check, Status};
use super::patient::Patient;

/// What a queue may be at most: the backlog that the server asks for.
const MOST: u64 = 65_535;
/// A queue as every kernel of ours has it by itself.
const USUAL: u64 = 4096;
/// The same of half-open connections: a small box has that much.
const USUAL_SYN: u64 = 1024;
/// What a queue has to hold of all clients, one in so many: when a network comes back, not all
/// of them arrive in the time that a shard takes to accept one queue.
const AT_ONCE: u64 = 10;

/// The queue of a listener.
struct Queue {
    id: &'static str,
    sysctl: &'static str,
    usual: u64,
    breaks: &'static str,
}

impl Queue {
    fn check(&self, patient: &Patient) -> Check {
        let check = Check::of(self.id);
        let Some(each) = patient.root.sysctl(self.sysctl) else {
            return check.skip(format!("{} cannot be read here", self.sysctl));
        };
        let all = each.saturating_mul(patient.shards as u64);
        let goal = patient.goal(None) / AT_ONCE;
        let status = match each {
            MOST.. => Status::Pass,
            few if few < self.usual => Status::Warn,
            _ if all < goal => Status::Warn,
            _ => Status::Pass,
        };
        let check = check.measured(each.to_string()).breaks_at(all);
        let check = check.limit(format!("a listener's queue, {} shards", patient.shards));
        let message = format!("more than {all} clients at the same moment: {}", self.breaks);
        check.judged(status, message, format!("sysctl -w {}={MOST}", self.sysctl))
    }
}

/// Clients that wait to be accepted.
pub(super) fn somaxconn(patient: &Patient) -> Vec<Check> {
    let queue = Queue {
        id: "somaxconn",
        sysctl: "net.core.somaxconn",
        usual: USUAL,
        breaks: "the rest is dropped and tries again after a second or more",
    };
    vec![queue.check(patient)]
}

/// Clients whose handshake is half done.
pub(super) fn syn_backlog(patient: &Patient) -> Vec<Check> {
    let queue = Queue {
        id: "syn_backlog",
        sysctl: "net.ipv4.tcp_max_syn_backlog",
        usual: USUAL_SYN,
        breaks: "the rest gets SYN cookies, or nothing where these are off",
    };
    vec![queue.check(patient)]
}

/// Switches that should be on, and what happens where they are off.
const SWITCHES: &[(&str, &str, &str)] = &[
    (
        "tcp_migrate_req",
        "net.ipv4.tcp_migrate_req",
        "who waits at a listener that closes while its siblings stay is reset, not passed on",
    ),
    ("syncookies", "net.ipv4.tcp_syncookies", "a flood of SYNs keeps everybody else out"),
    (
        "tcp_timestamps",
        "net.ipv4.tcp_timestamps",
        "SYN cookies lose a connection's options, and a round trip is known less well",
    ),
];

/// One line a switch.
pub(super) fn switches(patient: &Patient) -> Vec<Check> {
    let line = |(id, sysctl, off): &(&str, &str, &str)| {
        let check = Check::of(*id);
        match patient.root.sysctl(sysctl) {
            None => check.skip(format!("{sysctl} cannot be read here")),
            Some(0) => check.measured("off").warn(*off, format!("sysctl -w {sysctl}=1")),
            Some(_) => check.measured("on").pass(format!("off: {off}")),
        }
    };
    SWITCHES.iter().map(line).collect()
}

/// Source ports: for clients, or a proxy, on this box.
pub(super) fn port_range(patient: &Patient) -> Vec<Check> {
    let check = Check::of("port_range");
    let text = patient.root.text("proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return vec![check.skip("net.ipv4.ip_local_port_range cannot be read here")];
    };
    let ports = last.saturating_sub(first) + 1;
    // Each listening address is a destination of its own.
    let all = ports.saturating_mul(patient.config.listen.len() as u64);
    let check = check.measured(format!("{first} to {last}"));
    let behind_proxy = patient
        .config
        .trusted_proxies
        .iter()
        .any(|network| network.contains(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)));
    let here = behind_proxy || patient.clients == crate::probe::Clients::Here;
    if !here {
        let message = format!("of clients elsewhere each has its own; one address here has {all}");
        return vec![check.pass(message)];
    }
    let status = match patient.judge_mildly(all, patient.goal(None)) {
        Status::Pass => Status::Pass,
        _ => Status::Warn,
    };
    let message = format!("one source address on this box has {all} connections to the server");
    let fix = "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"   # and several source \
               addresses (127.0.0.0/8 are all this box's), or more server.listen addresses";
    vec![check.breaks_at(all).judged(status, message, fix)]
}
