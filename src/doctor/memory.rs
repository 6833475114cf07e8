//! Turns memory, the control group's and TCP's own, into checks.
//!
//! In:    `/proc/meminfo`, control groups, `net.ipv4.tcp_mem`, swap, huge pages.
//! Out:   connections that each holds.
//! Never: reckons bytes a connection itself: `probe::capacity` does.

use super::check::{Check, Status, bytes};
use super::patient::{FEW, Patient};
use crate::probe::capacity::{CONNECTION_BYTES, PAIR_BYTES};
use crate::probe::{Bound, Clients};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// What a connection costs here.
fn each(patient: &Patient) -> u64 {
    match patient.clients {
        Clients::Elsewhere => CONNECTION_BYTES,
        Clients::Here => PAIR_BYTES,
    }
}

/// Memory that is available to connections.
pub(super) fn memory(patient: &Patient) -> Vec<Check> {
    let memory = &patient.facts.memory;
    let check = Check::of("memory");
    if memory.total == 0 {
        let message = "/proc/meminfo cannot be read: the server would admit one connection";
        let fix = "ProcSubset=all   # in the unit";
        return vec![check.measured("unknown").fail(message, fix)];
    }
    // One is admitted always: a server that starts is never full of nobody.
    let holds = patient.holds(Bound::Memory).max(1);
    let said = format!("{} available of {}", bytes(memory.available()), bytes(memory.total));
    let check = check.measured(said).breaks_at(holds);
    let check = check.limit(format!("{} bytes a connection, a reserve kept back", each(patient)));
    let fix = match memory.group_free.is_some_and(|group| group < memory.free) {
        true => "MemoryMax=infinity   # in the unit, or a larger limit of the container",
        false => "ps aux --sort=-rss | head   # what else takes memory; or a larger box",
    };
    let Some(asked) = patient.asked else {
        let message = "what is available now, idle connections, kernel and server together";
        // That something else binds later is not the fault of memory; that few fit is.
        return vec![check.judged(patient.judge(holds, holds.max(FEW)), message, fix)];
    };
    let need = asked.saturating_mul(each(patient));
    let message = format!("{asked} idle connections take {}", bytes(need));
    vec![check.judged(patient.judge(holds, asked), message, fix)]
}

/// The control group's limit.
pub(super) fn group(patient: &Patient) -> Vec<Check> {
    let memory = &patient.facts.memory;
    let check = Check::of("memory_group");
    let Some((limit, free)) = memory.group_limit.zip(memory.group_free) else {
        return vec![check.measured("no limit").pass("no control group bounds the memory")];
    };
    let check = check.measured(format!("{} free of {}", bytes(free), bytes(limit)));
    let holds = free / each(patient);
    let check = check.limit("a connection is charged a part of what it costs").breaks_at(holds);
    let goal = patient.goal(Some(Bound::Memory));
    let status = match patient.judge(holds, goal) {
        // Where the box itself has no more either, the limit is not to blame.
        _ if free >= memory.free => Status::Pass,
        status => status,
    };
    let message = format!("at its limit the group's server is killed; {goal} connections fit else");
    vec![check.judged(status, message, "MemoryMax=92%   # in the unit, or a larger container")]
}

/// TCP's own bound on its buffers.
pub(super) fn tcp_mem(patient: &Patient) -> Vec<Check> {
    let check = Check::of("tcp_mem");
    let Some([low, pressure, high]) = patient.facts.tcp_mem else {
        let why = "net.ipv4.tcp_mem is not to be seen in this network namespace; the box's holds";
        return vec![check.skip(why)];
    };
    let goal = patient.goal(None);
    let pages = patient.facts.memory.total / PAGE;
    let wanted = (pages / 2).max(high);
    let status = match patient.judge_mildly(high, goal) {
        // More would be more than TCP may have of this box.
        Status::Warn if high >= wanted => Status::Pass,
        status => status,
    };
    let marks = format!("{} {} {wanted}", wanted / 2, wanted / 3 * 2);
    let message = format!(
        "a page for each connection with anything under way: a message to {high} at once is all \
         that TCP takes, then connections stall and are cut"
    );
    let check = check.measured(format!("{low} {pressure} {high} pages")).breaks_at(high);
    vec![check.judged(status, message, format!("sysctl -w net.ipv4.tcp_mem=\"{marks}\""))]
}

/// Swap, into which a server's own memory may go.
pub(super) fn swap(patient: &Patient) -> Vec<Check> {
    let check = Check::of("swap");
    let Some(swaps) = patient.root.text("proc/swaps") else {
        return vec![check.measured("none").pass("this kernel has no swap")];
    };
    let count = swaps.lines().skip(1).count();
    if count == 0 {
        return vec![check.measured("none").pass("nothing can be swapped out")];
    }
    let swappiness = patient.root.sysctl("vm.swappiness").unwrap_or(60);
    let check = check.measured(format!("{count} in use, vm.swappiness = {swappiness}"));
    if swappiness <= 1 {
        return vec![check.pass("only what nothing else can give is swapped out")];
    }
    let message = "sockets are never swapped, but what the server knows of them is: each wake-up \
                   then waits for a disk";
    vec![check.warn(message, "sysctl -w vm.swappiness=1   # in the unit: MemorySwapMax=0")]
}

/// Transparent huge pages.
pub(super) fn huge_pages(patient: &Patient) -> Vec<Check> {
    let check = Check::of("huge_pages");
    let file = "sys/kernel/mm/transparent_hugepage/enabled";
    let Some(text) = patient.root.text(file) else {
        return vec![check.measured("none").pass("this kernel has no transparent huge pages")];
    };
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    let check = check.measured(chosen.unwrap_or("unknown"));
    if chosen != Some("always") {
        return vec![check.pass("huge pages only where they are asked for")];
    }
    let message = "half-empty huge pages cost memory: fewer connections fit than are reckoned";
    vec![check.warn(message, format!("echo madvise > /{file}"))]
}
