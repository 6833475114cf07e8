//! Turns the kernel's table of tracked connections into a check.
//!
//! In:    `nf_conntrack`'s sysctls; a connection of our own, to see whether it is tracked.
//! Out:   connections that the table holds.
//! Never: says that nothing is tracked because nothing was seen: a rule of tomorrow tracks.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::check::{Check, Status};
use super::patient::Patient;

const MAX: &str = "net.netfilter.nf_conntrack_max";
const COUNT: &str = "net.netfilter.nf_conntrack_count";
/// How long the trial's own connection may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The table, where there is one.
pub(super) fn conntrack(patient: &Patient) -> Vec<Check> {
    let check = Check::of("conntrack");
    let Some(max) = patient.root.sysctl(MAX) else {
        return vec![check.measured("not loaded").pass("no connection is tracked")];
    };
    let tracked = tracked(patient);
    let goal = patient.goal(None);
    // A fifth beside the connections is for those that have just ended.
    let needed = goal.saturating_mul(6) / 5;
    let status = match patient.judge(max, needed) {
        // Seen or not, a small table is a trap; it is shut only where connections are tracked.
        Status::Fail if tracked == 0 => Status::Warn,
        status => status,
    };
    let seen = match tracked {
        0 => "nothing is tracked now (no stateful rule), but where a rule does".to_owned(),
        count => format!("{count} tracked now"),
    };
    let message = format!("{seen}: at {max} connections the box drops every newcomer's SYN");
    let check = check.measured(max.to_string()).breaks_at(max);
    let check = check.limit(format!("{needed} wanted for {goal} connections"));
    let ports: Vec<_> = patient.config.listen.iter().map(|at| at.port().to_string()).collect();
    let fix = format!(
        "sysctl -w {MAX}={}   # in the host's network namespace; or track nothing here: iptables \
         -t raw -A PREROUTING -p tcp -m multiport --dports {} -j NOTRACK",
        goal.saturating_mul(2).max(needed),
        ports.join(",")
    );
    vec![check.judged(status, message, fix)]
}

/// Connections that are tracked, with one of our own among them.
fn tracked(patient: &Patient) -> u64 {
    let count = || patient.root.sysctl(COUNT).unwrap_or(0);
    if !patient.is_here {
        return count();
    }
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let Ok(listener) = TcpListener::bind(anywhere) else { return count() };
    let address = listener.local_addr().unwrap_or(anywhere);
    let open = TcpStream::connect_timeout(&address, PATIENCE);
    let count = count();
    drop(open);
    count
}
