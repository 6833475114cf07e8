//! Turns `/proc/meminfo`, `/proc/zoneinfo` and the memory control groups into the bytes that are
//! left.
//!
//! In:    the text of these files.
//! Out:   `Memory`.
//! Never: trusts a control group alone: it is charged only part of what a socket costs, so the
//!        box's own memory binds too. Nor `MemAvailable`.
//!
//! # Why not `MemAvailable`
//! It counts what sockets hold. It allows a little less of the page cache and of the reclaimable
//! slab than there is, up to a mark for each, so that it grows while they are reclaimed; with the
//! boost of the mark after a shortage that is 80 to 400 MB of 24 GB. And it does not see the free
//! pages on the lists of single CPUs (70 to 180 MB). A number by which newcomers are let in must
//! not move by as much as 40 000 of them take, with nobody coming: here each is counted, and the
//! allowance stays.

use std::path::Path;

use rustix::param::page_size;

use super::zones::Zones;
use super::{number_behind, text};

/// Bytes of a socket that the kernel accounts as reclaimable, although nothing but its close gives
/// them back: its inode (`sock_inode_cache`, 862) and its `dentry` (195), slack included; by slab
/// objects on Linux 6.18.
pub(super) const SOCKET_RECLAIMABLE_BYTES: u64 = 862 + 195;

/// Memory of the box and of this process's control group, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`.
    pub total: u64,
    /// Free, or to be freed without swapping, less what the kernel keeps for itself.
    pub free: u64,
    /// The tightest limit of a control group, where there is one.
    pub group_limit: Option<u64>,
    /// What the tightest group still allows, page cache that it can drop counted as allowed.
    pub group_free: Option<u64>,
}

impl Memory {
    /// What can still be taken: of the box, and of the control group where that is tighter.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.group_free.map_or(self.free, |group| group.min(self.free))
    }

    /// As it is at this moment; `None` where the kernel's account cannot be read.
    #[must_use]
    pub fn now() -> Option<Self> {
        let memory = Self::read(Path::new("/proc"), Path::new("/sys/fs/cgroup"));
        (memory.total > 0).then_some(memory)
    }

    pub(super) fn read(proc: &Path, groups: &Path) -> Self {
        let info = text(&proc.join("meminfo")).unwrap_or_default();
        let total = field(&info, "MemTotal:").map_or(0, |kib| kib << 10);
        let zones = text(&proc.join("zoneinfo")).unwrap_or_default();
        let free = free(&info, &Zones::read(&zones), total, sockets(proc));
        let membership = text(&proc.join("self/cgroup")).unwrap_or_default();
        let tightest = chain(&membership, groups).min_by_key(|group| group.free);
        Self {
            total,
            free,
            group_limit: tightest.as_ref().map(|group| group.limit),
            group_free: tightest.map(|group| group.free),
        }
    }
}

/// What is free of all the box's memory, or can be freed.
fn free(info: &str, zones: &Zones, total: u64, sockets: u64) -> u64 {
    let bytes = |name| field(info, name).map_or(0, |kib| kib << 10);
    let held = sockets.saturating_mul(SOCKET_RECLAIMABLE_BYTES);
    let page = page_size() as u64;
    // In a container `meminfo` may be its own and the zones the host's: they do not go together.
    if total.abs_diff(zones.managed * page) > total / 64 {
        return bytes("MemAvailable:").saturating_sub(held);
    }
    let slab = bytes("KReclaimable:").saturating_sub(held);
    let cache = bytes("Active(file):") + bytes("Inactive(file):");
    let kept = (zones.reserve + 2 * zones.low) * page;
    (bytes("MemFree:") + zones.listed * page + cache + slab).saturating_sub(kept)
}

/// Sockets of this network namespace.
pub(super) fn sockets(proc: &Path) -> u64 {
    let text = text(&proc.join("net/sockstat")).unwrap_or_default();
    field(&text, "sockets: used").unwrap_or(0)
}

/// The number behind a word at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number_behind(line, name))
}

struct Group {
    limit: u64,
    free: u64,
}

/// Names of what one version of the interface calls the same things.
struct Interface {
    /// Folder below `/sys/fs/cgroup`.
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

const V1: Interface = Interface {
    mount: "memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file ",
};
const V2: Interface =
    Interface { mount: "", limit: "memory.max", used: "memory.current", cache: "inactive_file " };

/// Where `/proc/self/cgroup` says that this process's memory is accounted.
fn accounted(membership: &str) -> Option<(Interface, &str)> {
    let mut unified = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Where both versions are mounted, the controller is in the old one or in the new, and
        // only the old one names it.
        if controllers.split(',').any(|name| name == "memory") {
            return Some((V1, path));
        }
        if controllers.is_empty() {
            unified = Some((V2, path));
        }
    }
    unified
}

/// The groups from this process's own to the root that have a limit.
fn chain(membership: &str, groups: &Path) -> impl Iterator<Item = Group> {
    let found = accounted(membership).map(|(interface, path)| {
        let mount = groups.join(interface.mount);
        let own = mount.join(path.trim_start_matches('/'));
        // Inside a container the path may be the host's, which is not mounted here: its root is
        // the container's own group.
        let all: Vec<_> = own
            .ancestors()
            .take_while(|folder| folder.starts_with(&mount))
            .filter_map(|folder| group(folder, &interface))
            .collect();
        all
    });
    found.unwrap_or_default().into_iter()
}

fn group(folder: &Path, interface: &Interface) -> Option<Group> {
    // "max" is no number and no limit.
    let limit: u64 = text(&folder.join(interface.limit))?.trim().parse().ok()?;
    // Version 1 spells "no limit" as the largest whole number of pages.
    if limit >= 1 << 62 {
        return None;
    }
    let used: u64 = text(&folder.join(interface.used))?.trim().parse().ok()?;
    let cache = text(&folder.join("memory.stat")).and_then(|stat| field(&stat, interface.cache));
    let held = used.saturating_sub(cache.unwrap_or(0));
    Some(Group { limit, free: limit.saturating_sub(held) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MEMINFO: &str = "MemTotal:       24579132 kB\nMemFree:        11000000 kB\n\
                           MemAvailable:   20000000 kB\nBuffers:          100000 kB\n";

    /// A box of fixture files: `/proc` and `/sys/fs/cgroup` in one folder.
    fn fixture(files: &[(&str, &str)]) -> Memory {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Memory::read(&folder.path().join("proc"), &folder.path().join("cgroup"))
    }

    /// A box of 24 GB whose kernel keeps 30 000 pages, and begins to reclaim at 20 000.
    fn zones(boost: u64, listed: u64) -> String {
        let (low, high) = (20_000 + boost, 25_000 + boost);
        format!(
            "Node 0, zone Normal\n  pages free 1\n  boost {boost}\n  low {low}\n  high {high}\n  \
             managed 6144783\n  protection: (0, 5000)\n    cpu: 0\n      count: {listed}\n"
        )
    }

    /// What is available of it, in KiB.
    fn available(info: [u64; 4], sockets: u64, zones: &str) -> u64 {
        let [free, cache, slab, said] = info;
        let info = format!(
            "MemTotal:       24579132 kB\nMemFree: {free} kB\nMemAvailable: {said} kB\n\
             Active(file): {cache} kB\nInactive(file): 1000 kB\nKReclaimable: {slab} kB\n"
        );
        let sockets = format!("sockets: used {sockets}\nTCP: inuse 1 mem 2\n");
        let files = [
            ("proc/meminfo", info.as_str()),
            ("proc/self/cgroup", "0::/\n"),
            ("proc/net/sockstat", sockets.as_str()),
            ("proc/zoneinfo", zones),
        ];
        fixture(&files).available() >> 10
    }

    #[test]
    fn memory_that_is_reclaimed_was_there_before() {
        let (all, kept) = (16_000_000, 4 * (30_000 + 2 * 20_000));
        let zones = zones(0, 0);
        // Wherever it lies, and whatever the kernel says of it.
        for (cache, slab, said) in [(0, 0, 0), (8_000_000, 0, 1), (0, 3_000_000, 5), (50, 60, 7)] {
            let info = [all - cache - slab - 1000, cache, slab, said];
            assert_eq!(available(info, 0, &zones), all - kept, "{cache} {slab}");
        }
    }

    #[test]
    fn neither_a_boost_nor_a_cpus_list_changes_what_is_there() {
        let info = [16_000_000, 0, 0, 0];
        let quiet = available(info, 0, &zones(0, 0));
        assert_eq!(available(info, 0, &zones(40_000, 0)), quiet);
        assert_eq!(available([16_000_000 - 4 * 9_000, 0, 0, 0], 0, &zones(0, 9_000)), quiet);
    }

    #[test]
    fn what_sockets_hold_of_the_reclaimable_slab_is_not_available() {
        let with = |sockets| available([16_000_000, 0, 2_000_000, 0], sockets, &zones(0, 0));
        assert_eq!(with(0) - with(1_024_000), 1_057_000);
        // Never more than there is.
        assert_eq!(with(0) - with(10_000_000), 2_000_000);
    }

    #[test]
    fn zones_of_another_box_are_not_believed() {
        let host = "Node 0, zone Normal\n  low 900000\n  high 900000\n  managed 99999999\n";
        assert_eq!(available([1, 2, 3, 9_000_000], 1024, host), 9_000_000 - 1_057);
    }

    #[test]
    fn without_a_control_group_the_box_binds() {
        let memory = fixture(&[("proc/meminfo", MEMINFO), ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(memory.total, 24_579_132 << 10);
        assert_eq!((memory.available(), memory.group_limit), (20_000_000 << 10, None));
    }

    #[test]
    fn the_tightest_group_on_the_way_to_the_root_binds() {
        let memory = fixture(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/ringhall.service\n"),
            ("cgroup/system.slice/memory.max", "1000000000\n"),
            ("cgroup/system.slice/memory.current", "400000000\n"),
            ("cgroup/system.slice/memory.stat", "anon 1\ninactive_file 100000000\n"),
            ("cgroup/system.slice/ringhall.service/memory.max", "max\n"),
            ("cgroup/system.slice/ringhall.service/memory.current", "5\n"),
        ]);
        assert_eq!(memory.group_limit, Some(1_000_000_000));
        assert_eq!(memory.available(), 700_000_000, "cache that can be dropped is free");
    }

    #[test]
    fn version_1_is_read_and_its_no_limit_is_none() {
        let limited = |limit: &str| {
            fixture(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "5:pids:/\n4:memory,hugetlb:/a\n0::/\n"),
                ("cgroup/memory/a/memory.limit_in_bytes", limit),
                ("cgroup/memory/a/memory.usage_in_bytes", "1000\n"),
            ])
        };
        assert_eq!(limited("5000\n").group_free, Some(4000));
        assert_eq!(limited("9223372036854771712\n").group_limit, None);
    }

    #[test]
    fn a_path_of_the_host_leads_to_the_containers_root() {
        let memory = fixture(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/docker/abc\n"),
            ("cgroup/memory.max", "2000\n"),
            ("cgroup/memory.current", "3000\n"),
        ]);
        assert_eq!(memory.available(), 0, "over its limit there is nothing left");
    }

    #[test]
    fn this_box_tells_what_it_has_now() {
        let memory = Memory::now().expect("/proc/meminfo");
        assert!(memory.available() > 0 && memory.available() <= memory.total);
    }

    #[test]
    fn a_box_that_tells_nothing_has_nothing() {
        assert_eq!(fixture(&[]), Memory::default());
    }
}
