//! Turns a number of connections and a box's memory into what kernel and supervisor have to allow.
//!
//! In:    connections that are wanted, bytes that one takes, CPUs, memory.
//! Out:   `Sizes`: numbers for `sysctl`, the unit and its sockets.
//! Never: asks the box.
//!
//! # Invariants
//! - `shards` tables of `nofile` sockets hold the connections, a tenth to spare.

use crate::limits::{SHARDS_MAX, TABLE_SLOTS_MAX, moves_reserve};

/// Tables are made for this percentage of the connections: rooms hash unevenly.
const SPARE_PERCENT: u64 = 110;
/// The least that a unit allows: a table costs eight bytes a socket.
const NOFILE_LEAST: u64 = 65_536;
/// Descriptors beside a table: listeners, rings, plain HTTP.
const NOFILE_SPARE: u64 = 4096;
/// Files of everything else on the box.
const FILES_SPARE: u64 = 100_000;
/// Percent of the box's memory that the service may take: the kernel's part of a connection is
/// charged to it only in part, so this is no bound of the whole.
const MEMORY_PERCENT: u64 = 92;
/// Bytes of a page, as `tcp_mem` counts them.
const PAGE: u64 = 4096;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What is known and wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Basis {
    /// `--connections`.
    pub wanted: Option<u64>,
    /// Connections that the memory holds.
    pub memory_holds: u64,
    /// CPUs that the server may use.
    pub cpus: usize,
    /// `server.shards` where a sweep chose it.
    pub shards: Option<usize>,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// Numbers to write down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Connections that all of it is made for.
    pub connections: u64,
    /// Shards, so sockets that the supervisor opens.
    pub shards: usize,
    /// Whether there are more of them than the server would start by itself.
    pub shards_raised: bool,
    /// LimitNOFILE: also the size of each shard's table.
    pub nofile: u64,
    /// MemoryMax, in bytes.
    pub memory_max: u64,
    /// `fs.nr_open`.
    pub nr_open: u64,
    /// `fs.file-max`.
    pub file_max: u64,
    /// `net.ipv4.tcp_mem`, in pages.
    pub tcp_mem: [u64; 3],
    /// `vm.min_free_kbytes`.
    pub min_free_kib: u64,
}

impl Sizes {
    /// Works them out.
    #[must_use]
    pub fn of(basis: &Basis) -> Self {
        let by_itself = basis.shards.unwrap_or_else(|| basis.cpus.clamp(1, SHARDS_MAX));
        let table = (TABLE_SLOTS_MAX - moves_reserve(TABLE_SLOTS_MAX)) as u64;
        // More shards than the server starts by itself are for who asks for more connections.
        let tables_hold = by_itself as u64 * table * 100 / SPARE_PERCENT;
        let held = basis.memory_holds.min(tables_hold);
        let connections = basis.wanted.unwrap_or(held).max(1);
        let slots = connections.saturating_mul(SPARE_PERCENT).div_ceil(100);
        let least = usize::try_from(slots.div_ceil(table)).unwrap_or(SHARDS_MAX).min(SHARDS_MAX);
        let shards = by_itself.max(least);
        let each = slots.div_ceil(shards as u64);
        // A table leaves some slots free, a fiftieth; a twentieth is more than that.
        let nofile = (each + each / 20 + NOFILE_SPARE).next_power_of_two();
        let nofile = nofile.clamp(NOFILE_LEAST, TABLE_SLOTS_MAX as u64);
        let memory = basis.memory_bytes;
        let pages = memory / PAGE;
        Self {
            connections,
            shards,
            shards_raised: shards > by_itself,
            nofile,
            memory_max: memory / 100 * MEMORY_PERCENT / MIB * MIB,
            nr_open: nofile.max(TABLE_SLOTS_MAX as u64),
            // Clients of the same box have files of their own.
            file_max: connections.saturating_mul(2).saturating_add(FILES_SPARE),
            tcp_mem: [pages / 4, pages / 3, pages / 2],
            min_free_kib: (memory / 100 / KIB).clamp(64 * KIB, 512 * KIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Basis = Basis {
        wanted: None,
        memory_holds: 3_000_000,
        cpus: 2,
        shards: None,
        memory_bytes: 24 << 30,
    };

    /// Connections that tables of so many slots hold.
    fn held(sizes: &Sizes) -> u64 {
        let slots = usize::try_from(sizes.nofile).unwrap();
        sizes.shards as u64 * (slots - moves_reserve(slots)) as u64
    }

    #[test]
    fn a_small_number_needs_no_more_than_the_least() {
        let sizes = Sizes::of(&Basis { wanted: Some(10_000), ..BOX });
        assert_eq!((sizes.shards, sizes.nofile), (2, NOFILE_LEAST));
        assert!(!sizes.shards_raised);
        assert_eq!(sizes.file_max, 120_000);
    }

    #[test]
    fn tables_hold_what_is_wanted_with_a_tenth_to_spare() {
        for wanted in [1, 50_000, 100_000, 999_999, 1_000_000, 1_900_000, 12_000_000] {
            let sizes = Sizes::of(&Basis { wanted: Some(wanted), ..BOX });
            assert!(held(&sizes) * 100 >= wanted * SPARE_PERCENT, "{wanted}: {sizes:?}");
            assert!(sizes.nofile <= sizes.nr_open && sizes.nofile <= TABLE_SLOTS_MAX as u64);
        }
    }

    #[test]
    fn more_than_the_tables_of_all_cpus_raises_the_shards() {
        let sizes = Sizes::of(&Basis { wanted: Some(12_000_000), ..BOX });
        assert!(sizes.shards_raised && sizes.shards > 12, "{sizes:?}");
        let chosen = Sizes::of(&Basis { shards: Some(1), wanted: Some(10_000), ..BOX });
        assert_eq!((chosen.shards, chosen.shards_raised), (1, false));
    }

    #[test]
    fn without_a_number_it_is_what_memory_and_one_shard_a_cpu_hold() {
        assert_eq!(Sizes::of(&Basis { memory_holds: 50_000, ..BOX }).connections, 50_000);
        let sizes = Sizes::of(&BOX);
        assert_eq!((sizes.shards, sizes.shards_raised), (2, false));
        assert!(sizes.connections > 1_800_000 && sizes.connections < 2 << 20, "{sizes:?}");
        assert_eq!(Sizes::of(&Basis { memory_holds: 0, ..BOX }).connections, 1);
    }

    #[test]
    fn memory_is_parted_as_the_settings_say() {
        let sizes = Sizes::of(&BOX);
        let pages = (24 << 30) / 4096;
        assert_eq!(sizes.tcp_mem, [pages / 4, pages / 3, pages / 2]);
        assert_eq!(sizes.min_free_kib, (24 << 30) / 100 / 1024);
        assert!(sizes.memory_max < 24 << 30 && sizes.memory_max > 22 << 30);
        let small = Sizes::of(&Basis { memory_bytes: 1 << 30, ..BOX });
        assert_eq!(small.min_free_kib, 65_536);
    }
}
