//! Turns the limits on open files into checks.
//!
//! In:    RLIMIT_NOFILE, `fs.nr_open`, `fs.file-max`.
//! Out:   connections that each of them holds.
//! Never: counts a connection as a descriptor: it is a place in a ring's table, and a file.

use super::check::{Check, Status};
use super::patient::Patient;
use crate::limits::TABLE_SLOTS_MAX;
use crate::probe::Bound;
use crate::probe::capacity::table_connections;

/// Files that a server opens before anybody comes, and each of its shards: it starts with 38 for
/// two shards and not with 34, with 95 for eight and not with 90.
const OWN_FILES: u64 = 20;
const SHARD_FILES: u64 = 9;
/// Room beside the connections in what a fix sets.
const SPARE_FILES: u64 = 100_000;

/// The limit that a table of so many connections needs, in round numbers.
fn slots_for(connections: u64, shards: usize) -> u64 {
    let each = connections.saturating_mul(110) / 100 / shards as u64;
    // What a table keeps free is a fiftieth.
    let slots = each.saturating_add(each / 40).saturating_add(64);
    slots.clamp(1024, TABLE_SLOTS_MAX as u64).next_power_of_two()
}

/// RLIMIT_NOFILE, which bounds each shard's table.
pub(super) fn nofile(patient: &Patient) -> Vec<Check> {
    let limit = patient.facts.nofile.soft;
    let (shards, holds) = (patient.shards, patient.holds(Bound::Tables));
    let goal = patient.goal(Some(Bound::Tables));
    let slots = slots_for(goal, shards);
    let fix = raise(patient, slots);
    let check = Check::of("nofile").measured(limit.to_string());
    let check = check.limit(format!("{shards} shards, a table of so many sockets each"));
    // Each address more is a listener more a shard.
    let more = patient.config.listen.len().saturating_sub(1) as u64;
    let own = OWN_FILES + (SHARD_FILES + more) * shards as u64;
    if limit < own {
        let message = format!("the server itself opens about {own} files: it does not start");
        return vec![check.breaks_at(0).fail(message, fix)];
    }
    if let Some(said) = &patient.does_not_fit {
        return vec![check.breaks_at(0).fail(format!("the server does not start: {said}"), fix)];
    }
    let check = check.breaks_at(holds);
    let whole = limit >= TABLE_SLOTS_MAX as u64;
    let status = match patient.judge(holds, goal) {
        // More than one table holds: it is for more shards, not for this limit.
        Status::Warn if whole => Status::Pass,
        status => status,
    };
    let fix = match (whole, patient.asked) {
        (true, Some(asked)) => {
            format!("limits.connections_max = {asked}   # more shards, by itself")
        }
        _ => fix,
    };
    let message = match status {
        Status::Pass => "a shard's table is bounded by RLIMIT_NOFILE".to_owned(),
        _ => format!(
            "each shard's table is bounded by RLIMIT_NOFILE, and everything else here holds {goal}"
        ),
    };
    vec![check.judged(status, message, fix)]
}

/// How to raise RLIMIT_NOFILE; beyond `fs.nr_open` that comes first.
fn raise(patient: &Patient, slots: u64) -> String {
    let nr_open = patient.root.sysctl("fs.nr_open").unwrap_or(u64::MAX);
    let first = match nr_open < slots {
        true => format!("sysctl -w fs.nr_open={slots} && "),
        false => String::new(),
    };
    format!("{first}ulimit -n {slots}   # in the unit: LimitNOFILE={slots}")
}

/// `fs.nr_open`, which bounds RLIMIT_NOFILE.
pub(super) fn nr_open(patient: &Patient) -> Vec<Check> {
    let check = Check::of("nr_open");
    let Some(nr_open) = patient.root.sysctl("fs.nr_open") else {
        return vec![check.skip("fs.nr_open cannot be read here")];
    };
    let holds = (patient.shards as u64).saturating_mul(table_connections(nr_open) as u64);
    let goal = patient.goal(Some(Bound::Tables));
    let whole = nr_open >= TABLE_SLOTS_MAX as u64;
    let status = match patient.judge(holds, goal) {
        _ if whole => Status::Pass,
        status => status,
    };
    let check = check.measured(nr_open.to_string()).limit("RLIMIT_NOFILE can be no more");
    let fix = format!("sysctl -w fs.nr_open={TABLE_SLOTS_MAX}");
    vec![check.breaks_at(holds).judged(status, "no table can be larger", fix)]
}

/// `fs.file-max`: each connection is a file of the box.
pub(super) fn file_max(patient: &Patient) -> Vec<Check> {
    let check = Check::of("file_max");
    if patient.facts.files.is_none() {
        return vec![check.skip("fs.file-nr cannot be read here")];
    }
    let holds = patient.holds(Bound::Files);
    let goal = patient.goal(Some(Bound::Files));
    let most = patient.root.sysctl("fs.file-max").unwrap_or_default();
    let wanted = goal.saturating_mul(2).saturating_add(SPARE_FILES).max(most);
    let check = check.measured(most.to_string()).limit("files of the whole box").breaks_at(holds);
    let message = "each connection is an open file, and one more where its client is on this box";
    let fix = format!("sysctl -w fs.file-max={wanted}");
    vec![check.judged(patient.judge(holds, goal), message, fix)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_asked_for_that_holds_what_is_wanted() {
        for (connections, shards) in [(1, 1), (980, 1), (39_200, 2), (1_000_000, 2), (900_000, 1)] {
            let slots = slots_for(connections, shards);
            assert!(
                shards as u64 * table_connections(slots) as u64 >= connections,
                "{connections}"
            );
        }
        assert_eq!(slots_for(u64::MAX, 1), TABLE_SLOTS_MAX as u64, "and none is larger");
    }
}
