//! Turns the facts of a box into how many shards to run and how many connections to admit.
//!
//! In:    CPUs, table sizes, memory, open files; the operator's numbers where there are any.
//! Out:   a number of shards; `Capacity`, with what binds it first.
//! Never: guesses what the operator meant: a number that cannot be had is an error with its remedy.
//!
//! # Invariants
//! - What is admitted fits the shards' tables, their reserve left free.

use std::fmt;

use super::Facts;
use crate::limits::{SHARDS_MAX, TABLE_SLOTS_MAX, moves_reserve};

/// Bytes a connection costs: the kernel's part (poll-armed, direct descriptor: 4 125 measured on
/// 6.18, and room for what arrives), and ours.
pub const CONNECTION_BYTES: u64 = 4_800 + 600;
/// Percent of the available memory that connections may fill; the rest is queues and neighbours.
const MEMORY_PERCENT: u64 = 80;
/// Shards are raised until they hold this percentage of the wanted connections: rooms hash
/// unevenly.
const SPARE_PERCENT: usize = 110;

/// Sockets that one shard's table holds, for the soft RLIMIT_NOFILE that is in force when the ring
/// is made.
#[must_use]
pub fn table_slots(nofile: u64) -> usize {
    usize::try_from(nofile).unwrap_or(usize::MAX).min(TABLE_SLOTS_MAX)
}

/// Connections that one shard may have: its table less the slots in which whoever is one too many
/// is accepted and refused.
fn table_connections(nofile: u64) -> usize {
    let slots = table_slots(nofile);
    slots.saturating_sub(moves_reserve(slots))
}

/// The operator's numbers do not fit this box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoesNotFit(String);

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DoesNotFit {}

/// How many shards to run.
///
/// `shards` and `connections_max` are the operator's numbers, `None` for `auto`; `cpus` counts the
/// CPUs of the affinity mask; `nofile` is the soft RLIMIT_NOFILE. `auto` is one shard a CPU, and
/// more only where a number of connections is asked for that these cannot hold.
///
/// # Errors
/// Where the connections asked for do not fit the shards asked for, or any number of shards.
pub fn shards_for(
    shards: Option<usize>,
    cpus: usize,
    nofile: u64,
    connections_max: Option<usize>,
) -> Result<usize, DoesNotFit> {
    let each = table_connections(nofile).max(1);
    let count = shards.unwrap_or_else(|| cpus.clamp(1, SHARDS_MAX));
    let Some(wanted) = connections_max else { return Ok(count) };
    if wanted <= count.saturating_mul(each) {
        return Ok(count);
    }
    let least = wanted.saturating_mul(SPARE_PERCENT).div_ceil(each.saturating_mul(100));
    if shards.is_none() && least <= SHARDS_MAX {
        return Ok(least);
    }
    let slots = table_slots(nofile);
    let shards_said = match shards {
        Some(count) => format!("server.shards = {count}"),
        None => format!("{SHARDS_MAX} shards, the most there may be"),
    };
    let more = match least <= SHARDS_MAX {
        true => format!("set server.shards to \"auto\" or {least}, "),
        false => String::new(),
    };
    Err(DoesNotFit(format!(
        "limits.connections_max = {wanted} does not fit {shards_said}: a shard's table holds \
         {each} (RLIMIT_NOFILE allows {slots} sockets, a few stay free): {more}raise \
         RLIMIT_NOFILE (LimitNOFILE= of the unit, ulimit -n), or lower limits.connections_max"
    )))
}

/// What ends the admission of connections first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The shards' tables: RLIMIT_NOFILE and the number of shards.
    Tables,
    /// Memory of the box or of the control group.
    Memory,
    /// `fs.file-max`.
    Files,
    /// `limits.connections_max`.
    Configured,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tables => "the shards' tables (RLIMIT_NOFILE)",
            Self::Memory => "memory",
            Self::Files => "fs.file-max",
            Self::Configured => "limits.connections_max",
        })
    }
}

/// Connections that each part of this box holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The shards' tables together.
    pub tables: usize,
    /// The memory that was available when the facts were read.
    pub memory: usize,
    /// Open files of the whole box.
    pub files: usize,
}

impl Capacity {
    /// What `shards` shards hold on this box.
    #[must_use]
    pub fn of(facts: &Facts, shards: usize) -> Self {
        let fill = facts.memory.available() / 100 * MEMORY_PERCENT;
        Self {
            tables: shards.saturating_mul(table_connections(facts.nofile.soft)),
            memory: usize::try_from(fill / CONNECTION_BYTES).unwrap_or(usize::MAX),
            files: facts
                .files
                .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX)),
        }
    }

    /// How many connections to admit, and what binds first.
    ///
    /// `connections_max` is the operator's number, `None` for `auto`. The operator may know better
    /// about memory, but no number makes a table larger.
    #[must_use]
    pub fn admit(&self, connections_max: Option<usize>) -> (usize, Bound) {
        if let Some(wanted) = connections_max {
            return match wanted <= self.tables {
                true => (wanted, Bound::Configured),
                false => (self.tables, Bound::Tables),
            };
        }
        let all = [
            (self.tables, Bound::Tables),
            (self.memory, Bound::Memory),
            (self.files, Bound::Files),
        ];
        let (least, bound) = all.into_iter().min_by_key(|(number, _)| *number).unwrap_or(all[0]);
        // Someone has to get in to see what is wrong.
        (least.max(1), bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Memory, ResourceLimit};
    use super::*;

    fn facts(nofile: u64, available: u64, files: Option<u64>) -> Facts {
        Facts {
            cpus: vec![0, 1],
            nofile: ResourceLimit { soft: nofile, hard: nofile },
            memlock: ResourceLimit { soft: 0, hard: 0 },
            memory: Memory { total: available, free: available, ..Memory::default() },
            tcp_mem: None,
            files,
        }
    }

    #[test]
    fn auto_is_one_shard_a_cpu() {
        assert_eq!(shards_for(None, 2, 20_000, None), Ok(2));
        assert_eq!(shards_for(None, 0, 20_000, None), Ok(1));
        assert_eq!(shards_for(None, 5000, 20_000, None), Ok(SHARDS_MAX));
        assert_eq!(shards_for(Some(7), 2, 20_000, None), Ok(7));
    }

    #[test]
    fn only_a_number_that_does_not_fit_raises_the_shards() {
        // A table of 20 000 holds 19 600.
        assert_eq!(shards_for(None, 2, 20_000, Some(39_200)), Ok(2), "fits exactly");
        assert_eq!(shards_for(None, 2, 20_000, Some(39_201)), Ok(3));
        assert_eq!(shards_for(None, 2, 20_000, Some(1_000_000)), Ok(57));
        let held = 57 * 19_600;
        assert!(held >= 1_100_000 && held - 19_600 < 1_100_000, "least with a tenth to spare");
        assert_eq!(shards_for(None, 4, u64::MAX, Some(1_000_000)), Ok(4));
    }

    #[test]
    fn shards_that_cannot_hold_the_number_are_an_error_with_its_remedy() {
        let error = shards_for(Some(2), 2, 1000, Some(5000)).unwrap_err().to_string();
        assert!(error.contains("limits.connections_max = 5000"), "{error}");
        assert!(error.contains("server.shards = 2") && error.contains("RLIMIT_NOFILE"), "{error}");
        assert!(error.contains("or 6, "), "{error}");
        let error = shards_for(None, 2, 100, Some(1_000_000)).unwrap_err().to_string();
        assert!(error.contains("1024 shards") && !error.contains("\"auto\""), "{error}");
        assert!(shards_for(None, 1, 0, Some(usize::MAX)).is_err(), "no overflow");
    }

    #[test]
    fn a_table_is_bounded_by_the_limit_and_by_the_kernel() {
        assert_eq!(table_slots(1024), 1024);
        assert_eq!(table_slots(u64::MAX), TABLE_SLOTS_MAX);
    }

    #[test]
    fn the_first_to_run_out_binds() {
        let gib = 1 << 30;
        let of = |facts: Facts| Capacity::of(&facts, 2).admit(None);
        assert_eq!(of(facts(20_000, 24 * gib, None)), (39_200, Bound::Tables));
        let (memory, bound) = of(facts(1 << 20, gib, Some(1 << 30)));
        assert_eq!(bound, Bound::Memory);
        assert_eq!(memory as u64, gib / 100 * 80 / CONNECTION_BYTES);
        assert_eq!(of(facts(20_000, 24 * gib, Some(5000))), (5000, Bound::Files));
        assert_eq!(of(facts(20_000, 0, None)), (1, Bound::Memory), "never none at all");
    }

    #[test]
    fn the_operators_number_is_bounded_by_the_tables_alone() {
        let capacity = Capacity { tables: 100, memory: 10, files: 10 };
        assert_eq!(capacity.admit(Some(50)), (50, Bound::Configured));
        assert_eq!(capacity.admit(Some(500)), (100, Bound::Tables));
    }
}
