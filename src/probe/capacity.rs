//! Turns the facts of a box into how many shards to run and how many connections to admit.
//!
//! In:    CPUs, table sizes, locked memory, memory, open files; the operator's numbers where there
//!        are any.
//! Out:   a number of shards; `Capacity`, with what binds it first; the memory to keep back.
//! Never: guesses what the operator meant: a number that cannot be had is an error with its remedy.
//!
//! Server and doctor both reckon here: what the one promises the other keeps.
//!
//! # Invariants
//! - What is admitted fits the shards' tables, their reserve left free.

use std::fmt;

use super::{Facts, Memory};
use crate::limits::{Limits, RingUse, SHARDS_MAX, TABLE_SLOTS_MAX, moves_reserve};
use crate::uring::ring_bytes_least;

/// Bytes that a connection costs this box, kernel and user space, where the client is elsewhere:
/// 4 129 and 222 (`benches/runs/2026-11-25-6.18.44-fc-v595-amd-epyc/idle.txt`).
pub const CONNECTION_BYTES: u64 = 4_400;
/// The same where the client is on this box too, as with `ringhall bench`, whose standing receives
/// take the kernel more: `tests/capacity_memory.rs` holds it.
pub const PAIR_BYTES: u64 = 9_200;
/// What a server has before anybody comes, beside its receive buffers.
const SERVER_BYTES: u64 = 8 << 20;
/// And what each of its shards has: a ring, the table of its sockets, a thread.
const SHARD_BYTES: u64 = 2 << 20;
/// One part in so many of the memory is kept back at least.
const RESERVE_PART: u64 = 64;
/// One part in so many of the memory is kept back at most: a small box serves somebody, too.
const RESERVE_PART_MOST: u64 = 4;
/// Files of a shard that are no connections: rings, listeners, eventfds.
const SHARD_FILES: usize = 16;
/// Shards are raised until they hold this percentage of the wanted connections: rooms hash
/// unevenly.
const SPARE_PERCENT: usize = 110;
/// Locked memory of a runtime's ring (each shard has one, and the main thread): a page of 64
/// entries, and one of 128 completions.
const RUNTIME_LOCKED_BYTES: usize = 2 * 4096;

/// Sockets that one shard's table holds, for the soft RLIMIT_NOFILE that is in force when the ring
/// is made.
#[must_use]
pub fn table_slots(nofile: u64) -> usize {
    usize::try_from(nofile).unwrap_or(usize::MAX).min(TABLE_SLOTS_MAX)
}

/// Connections that one shard may have: its table less the slots in which whoever is one too many
/// is accepted and refused.
#[must_use]
pub fn table_connections(nofile: u64) -> usize {
    let slots = table_slots(nofile);
    slots.saturating_sub(moves_reserve(slots))
}

/// Bytes that so many shards lock at least: the smallest rings there are, with the receive buffers
/// that `ring.buffers` asks for.
#[must_use]
pub fn locked_bytes_least(ring: &RingUse, shards: usize) -> usize {
    let each = ring_bytes_least(ring.buffers_of(shards)) + RUNTIME_LOCKED_BYTES;
    shards.saturating_mul(each).saturating_add(RUNTIME_LOCKED_BYTES)
}

/// The most shards whose rings RLIMIT_MEMLOCK lets a server have, up to `most`; all of them where
/// nobody charges it. One server's: a second one of the same user needs as much again.
#[must_use]
pub fn shards_locked(facts: &Facts, ring: &RingUse, most: usize) -> usize {
    (1..=most).rev().find(|shards| may_lock(facts, ring, *shards)).unwrap_or(0)
}

/// Whether so many shards may lock their rings. Fewer need not fit where more do: shares of the
/// buffers are powers of two.
fn may_lock(facts: &Facts, ring: &RingUse, shards: usize) -> bool {
    !facts.is_charged || locked_bytes_least(ring, shards) as u64 <= facts.memlock.soft
}

/// Bytes of memory that are kept back: while less is available, newcomers are refused.
///
/// The operator's number (`limits.memory_reserve`), or for `auto`: what clients may make the server
/// hold (`limits.queue_bytes`), or a 64th of the memory (the kernel's buffers of what is on its
/// way, the neighbours) where that is more, and never more than a quarter.
#[must_use]
pub fn memory_reserve(memory: &Memory, limits: &Limits) -> u64 {
    if let Some(bytes) = limits.memory_reserve {
        return bytes as u64;
    }
    let total = memory.group_limit.map_or(memory.total, |limit| limit.min(memory.total));
    (total / RESERVE_PART).max(limits.queue_bytes_total as u64).min(total / RESERVE_PART_MOST)
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
/// `shards` and `connections_max` are the operator's numbers, `None` for `auto`: one shard a CPU,
/// fewer where RLIMIT_MEMLOCK does not allow so many rings, and more only where a number of
/// connections is asked for that these cannot hold.
///
/// # Errors
/// Where the connections asked for do not fit the shards asked for, or any number of shards.
pub fn shards_for(
    facts: &Facts,
    ring: &RingUse,
    shards: Option<usize>,
    connections_max: Option<usize>,
) -> Result<usize, DoesNotFit> {
    let each = table_connections(facts.nofile.soft).max(1);
    let cpus = facts.cpus.len().clamp(1, SHARDS_MAX);
    let count = shards.unwrap_or_else(|| shards_locked(facts, ring, cpus).max(1));
    let Some(wanted) = connections_max else { return Ok(count) };
    if wanted <= count.saturating_mul(each) {
        return Ok(count);
    }
    let least = wanted.saturating_mul(SPARE_PERCENT).div_ceil(each.saturating_mul(100));
    let fits = (least..=SHARDS_MAX).find(|shards| may_lock(facts, ring, *shards));
    if let (None, Some(count)) = (shards, fits) {
        return Ok(count);
    }
    let locked = shards_locked(facts, ring, SHARDS_MAX).max(1);
    if shards.is_none() && locked < SHARDS_MAX {
        let bytes = locked_bytes_least(ring, least.min(SHARDS_MAX));
        return Err(DoesNotFit(format!(
            "limits.connections_max = {wanted} takes {least} shards of {each} connections, whose \
             rings lock {bytes} bytes at least, and RLIMIT_MEMLOCK allows {}, enough for {locked} \
             of them: raise it (LimitMEMLOCK=infinity of the unit, `ulimit -l unlimited`), raise \
             RLIMIT_NOFILE for larger tables, or lower limits.connections_max to {}",
            facts.memlock.soft,
            connections_of(locked, each),
        )));
    }
    let slots = table_slots(facts.nofile.soft);
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

/// The largest `limits.connections_max` for which [`shards_for`] takes no more than so many shards.
fn connections_of(shards: usize, each: usize) -> usize {
    shards.saturating_mul(each).saturating_mul(100) / SPARE_PERCENT
}

/// What ends the admission of connections first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The shards' tables: RLIMIT_NOFILE and the number of shards.
    Tables,
    /// RLIMIT_MEMLOCK: it allows fewer shards than there would be.
    Memlock,
    /// Memory of the box or of the control group, less the reserve.
    Memory,
    /// `fs.file-max`.
    Files,
    /// `limits.connections_max`.
    Configured,
}

impl Bound {
    /// One word for it, as JSON has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tables => "nofile",
            Self::Memlock => "memlock",
            Self::Memory => "memory",
            Self::Files => "file_max",
            Self::Configured => "connections_max",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tables => "the shards' tables (RLIMIT_NOFILE)",
            Self::Memlock => "locked memory for the shards' rings (RLIMIT_MEMLOCK)",
            Self::Memory => "memory",
            Self::Files => "fs.file-max",
            Self::Configured => "limits.connections_max",
        })
    }
}

/// Where the clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// On other boxes.
    Elsewhere,
    /// On this box: each connection has both of its ends here.
    Here,
}

/// Connections that each part of this box holds; `usize::MAX` where it does not bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The tables of the shards that were asked about, together.
    pub tables: usize,
    /// The tables of all shards whose rings RLIMIT_MEMLOCK allows.
    pub memlock: usize,
    /// The memory that was available when the facts were read, less the reserve.
    pub memory: usize,
    /// The same, for both ends of each connection.
    pub memory_here: usize,
    /// Open files of the whole box.
    pub files: usize,
    /// The same, for both ends of each connection.
    pub files_here: usize,
    /// Sockets of which each may hold one unread message before TCP has no memory for more
    /// (`net.ipv4.tcp_mem`, third number; a page each). Nobody is refused for it: beyond this a
    /// message to everybody at once stalls.
    pub tcp_mem: usize,
    /// Bytes of memory that were available when the facts were read, less what a server has before
    /// anybody comes.
    pub available: u64,
}

impl Capacity {
    /// What `shards` shards (`shards_for` says how many) hold on this box, with so many bytes of
    /// memory kept back ([`memory_reserve`]).
    #[must_use]
    pub fn of(facts: &Facts, ring: &RingUse, shards: usize, reserve: u64) -> Self {
        let each = table_connections(facts.nofile.soft);
        let locked = shards_locked(facts, ring, SHARDS_MAX);
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let own = shards.saturating_mul(SHARD_FILES);
        let server = SERVER_BYTES + ring.receive_bytes(shards) as u64 + SHARD_BYTES * shards as u64;
        let files = facts.files.map_or(usize::MAX, |files| number(files).saturating_sub(own));
        let capacity = Self {
            tables: shards.saturating_mul(each),
            memlock: match locked < SHARDS_MAX {
                true => locked.saturating_mul(each),
                false => usize::MAX,
            },
            memory: 0,
            memory_here: 0,
            files,
            files_here: facts.files.map_or(usize::MAX, |_| files / 2),
            tcp_mem: facts.tcp_mem.map_or(usize::MAX, |[.., most]| number(most)),
            available: facts.memory.available().saturating_sub(server),
        };
        capacity.keeping(reserve)
    }

    /// The same with another number of bytes kept back.
    #[must_use]
    pub fn keeping(self, reserve: u64) -> Self {
        let fill = self.available.saturating_sub(reserve);
        let holds = |each: u64| usize::try_from(fill / each).unwrap_or(usize::MAX);
        Self { memory: holds(CONNECTION_BYTES), memory_here: holds(PAIR_BYTES), ..self }
    }

    /// Each part that may bind, with the connections that it holds.
    #[must_use]
    pub fn each(&self, clients: Clients) -> [(usize, Bound); 4] {
        let (memory, files) = match clients {
            Clients::Elsewhere => (self.memory, self.files),
            Clients::Here => (self.memory_here, self.files_here),
        };
        // Where two are equal the first is named.
        [
            (self.memlock, Bound::Memlock),
            (self.tables, Bound::Tables),
            (memory, Bound::Memory),
            (files, Bound::Files),
        ]
    }

    /// How many connections to admit, and what binds first.
    ///
    /// `connections_max` is the operator's number, `None` for `auto`. The operator may know better
    /// about memory, but no number makes a table larger. That the clients may be on this box is
    /// not reckoned with: then the live reserve ends the admission.
    #[must_use]
    pub fn admit(&self, connections_max: Option<usize>) -> (usize, Bound) {
        if let Some(wanted) = connections_max {
            return match wanted <= self.tables {
                true => (wanted, Bound::Configured),
                false => (self.tables, Bound::Tables),
            };
        }
        self.promise(None, Clients::Elsewhere)
    }

    /// How many connections there can be before newcomers are refused, and what binds first: by
    /// `limits.connections_max`, or by something that is spent before.
    #[must_use]
    pub fn promise(&self, connections_max: Option<usize>, clients: Clients) -> (usize, Bound) {
        let configured = (connections_max.unwrap_or(usize::MAX), Bound::Configured);
        let each = self.each(clients).into_iter().chain([configured]);
        let (least, bound) = each.min_by_key(|(number, _)| *number).unwrap_or(configured);
        // Someone has to get in to see what is wrong.
        (least.max(1), bound)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ResourceLimit;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn ring() -> RingUse {
        RingUse::default()
    }

    fn facts(nofile: u64, available: u64, files: Option<u64>) -> Facts {
        Facts {
            cpus: vec![0, 1],
            nofile: ResourceLimit { soft: nofile, hard: nofile },
            memlock: ResourceLimit { soft: 0, hard: 0 },
            is_charged: false,
            memory: Memory { total: available, free: available, ..Memory::default() },
            tcp_mem: None,
            files,
        }
    }

    /// A box on which the user may lock so much.
    fn allowed(bytes: usize, nofile: u64) -> Facts {
        let limit = ResourceLimit { soft: bytes as u64, hard: bytes as u64 };
        Facts { memlock: limit, is_charged: true, ..facts(nofile, 24 * GIB, None) }
    }

    fn with_cpus(count: usize, nofile: u64) -> Facts {
        Facts { cpus: (0..count).collect(), ..facts(nofile, GIB, None) }
    }

    #[test]
    fn auto_is_one_shard_a_cpu() {
        assert_eq!(shards_for(&with_cpus(2, 20_000), &ring(), None, None), Ok(2));
        assert_eq!(shards_for(&with_cpus(0, 20_000), &ring(), None, None), Ok(1));
        assert_eq!(shards_for(&with_cpus(5000, 20_000), &ring(), None, None), Ok(SHARDS_MAX));
        assert_eq!(shards_for(&with_cpus(2, 20_000), &ring(), Some(7), None), Ok(7));
    }

    #[test]
    fn only_a_number_that_does_not_fit_raises_the_shards() {
        // A table of 20 000 holds 19 600.
        let facts = with_cpus(2, 20_000);
        assert_eq!(shards_for(&facts, &ring(), None, Some(39_200)), Ok(2), "fits exactly");
        assert_eq!(shards_for(&facts, &ring(), None, Some(39_201)), Ok(3));
        assert_eq!(shards_for(&facts, &ring(), None, Some(1_000_000)), Ok(57));
        let held = 57 * 19_600;
        assert!(held >= 1_100_000 && held - 19_600 < 1_100_000, "least with a tenth to spare");
        assert_eq!(shards_for(&with_cpus(4, u64::MAX), &ring(), None, Some(1_000_000)), Ok(4));
    }

    #[test]
    fn shards_that_cannot_hold_the_number_are_an_error_with_its_remedy() {
        let said = |facts: &Facts, shards, wanted| {
            shards_for(facts, &ring(), shards, Some(wanted)).unwrap_err().to_string()
        };
        let error = said(&with_cpus(2, 1000), Some(2), 5000);
        assert!(error.contains("limits.connections_max = 5000"), "{error}");
        assert!(error.contains("server.shards = 2") && error.contains("RLIMIT_NOFILE"), "{error}");
        assert!(error.contains("or 6, "), "{error}");
        let error = said(&with_cpus(2, 100), None, 1_000_000);
        assert!(error.contains("1024 shards") && !error.contains("\"auto\""), "{error}");
        said(&with_cpus(1, 0), None, usize::MAX);
    }

    #[test]
    fn locked_memory_bounds_the_shards_of_whoever_is_charged_for_it() {
        for shards in [1, 2, 3, 31, 32, 33, 1000] {
            let enough = locked_bytes_least(&ring(), shards);
            assert_eq!(shards_locked(&allowed(enough, 1000), &ring(), SHARDS_MAX), shards);
            assert_eq!(shards_locked(&allowed(enough - 1, 1000), &ring(), SHARDS_MAX), shards - 1);
        }
        assert_eq!(shards_locked(&allowed(usize::MAX, 1000), &ring(), SHARDS_MAX), SHARDS_MAX);
        // Shares are powers of two: four shards lock less than three.
        let large = RingUse { buffers: 1 << 14, ..ring() };
        let facts = allowed(locked_bytes_least(&large, 4), 1000);
        let locked = |most| shards_locked(&facts, &large, most);
        assert_eq!((locked(4), locked(3), locked(SHARDS_MAX)), (4, 2, 4));
        assert_eq!(
            shards_for(&facts, &large, None, Some(2500)),
            Ok(4),
            "three hold it, but not here"
        );
        let free = Facts { is_charged: false, ..allowed(0, 1000) };
        assert_eq!(shards_locked(&free, &ring(), SHARDS_MAX), SHARDS_MAX);
        // Auto takes what there may be, and tries one at least; the operator's number is tried.
        assert_eq!(
            shards_for(&allowed(locked_bytes_least(&ring(), 1), 1000), &ring(), None, None),
            Ok(1)
        );
        assert_eq!(shards_for(&allowed(0, 1000), &ring(), None, None), Ok(1));
        assert_eq!(shards_for(&allowed(0, 1000), &ring(), Some(3), None), Ok(3));
    }

    #[test]
    fn connections_whose_shards_may_not_lock_their_rings_are_an_error_that_says_how_many_may() {
        let facts = allowed(locked_bytes_least(&ring(), 5), 1000);
        let most = connections_of(5, table_connections(1000));
        assert_eq!(shards_for(&facts, &ring(), None, Some(most)), Ok(5));
        let error = shards_for(&facts, &ring(), None, Some(most + 1)).unwrap_err().to_string();
        for part in ["RLIMIT_MEMLOCK", "6 shards", "LimitMEMLOCK=infinity", &most.to_string()] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_table_is_bounded_by_the_limit_and_by_the_kernel() {
        assert_eq!(table_slots(1024), 1024);
        assert_eq!(table_slots(u64::MAX), TABLE_SLOTS_MAX);
    }

    #[test]
    fn the_first_to_run_out_binds() {
        let reserve = GIB / 4;
        let of = |facts: Facts| Capacity::of(&facts, &ring(), 2, reserve).admit(None);
        assert_eq!(of(facts(20_000, 24 * GIB, None)), (39_200, Bound::Tables));
        let (memory, bound) = of(facts(1 << 20, GIB, Some(1 << 30)));
        assert_eq!(bound, Bound::Memory);
        assert_eq!(memory as u64, (GIB - reserve - (28 << 20)) / CONNECTION_BYTES);
        assert_eq!(of(facts(20_000, 24 * GIB, Some(5032))), (5000, Bound::Files));
        assert_eq!(of(facts(20_000, 0, None)), (1, Bound::Memory), "never none at all");
        let (locked, bound) = of(allowed(locked_bytes_least(&ring(), 1), 1000));
        assert_eq!((locked, bound), (980, Bound::Memlock));
    }

    #[test]
    fn a_connection_with_both_ends_here_costs_both() {
        let capacity = Capacity::of(&facts(1 << 20, GIB, Some(1 << 30)), &ring(), 2, 0);
        let (elsewhere, _) = capacity.promise(None, Clients::Elsewhere);
        let (here, bound) = capacity.promise(None, Clients::Here);
        assert_eq!(bound, Bound::Memory);
        assert!(here > elsewhere * 45 / 100 && here < elsewhere * 55 / 100, "{here} {elsewhere}");
        let few = Capacity::of(&facts(1 << 20, 24 * GIB, Some(1032)), &ring(), 2, 0);
        assert_eq!(few.promise(None, Clients::Here), (500, Bound::Files));
    }

    #[test]
    fn the_operators_number_is_bounded_by_the_tables_alone() {
        let capacity = Capacity::of(&facts(1000, 0, None), &ring(), 1, 0);
        assert_eq!(capacity.admit(Some(50)), (50, Bound::Configured));
        assert_eq!(capacity.admit(Some(5000)), (980, Bound::Tables));
        assert_eq!(capacity.promise(Some(50), Clients::Elsewhere), (1, Bound::Memory));
    }

    #[test]
    fn what_is_kept_back_is_what_queues_may_hold_or_a_64th_but_never_more_than_a_quarter() {
        let reserve = |total: u64| {
            let memory = Memory { total, ..Memory::default() };
            memory_reserve(&memory, &Limits::default()) >> 20
        };
        assert_eq!((reserve(GIB / 2), reserve(4 * GIB), reserve(64 * GIB)), (128, 256, 1024));
        let group = Memory { total: 64 * GIB, group_limit: Some(GIB / 2), ..Memory::default() };
        assert_eq!(memory_reserve(&group, &Limits::default()) >> 20, 128);
        let limits = Limits { memory_reserve: Some(7), ..Limits::default() };
        assert_eq!(memory_reserve(&group, &limits), 7, "the operator's word");
    }
}
