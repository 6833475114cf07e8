//! Turns `/proc/meminfo` and the memory control groups into the bytes that are left.
//!
//! In:    the text of these files.
//! Out:   `Memory`.
//! Never: trusts a control group alone: it is charged only part of what a socket costs, so the
//!        box's own memory binds too. Nor `MemAvailable` alone, which counts what sockets hold.

use std::path::Path;

use super::text;

/// Bytes of a socket that the kernel accounts as reclaimable, although nothing but its close gives
/// them back: its inode (`sock_inode_cache`, 862) and its `dentry` (195), slack included; by slab
/// objects on Linux 6.18.
pub(super) const SOCKET_RECLAIMABLE_BYTES: u64 = 862 + 195;

/// Memory of the box and of this process's control group, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`, free or freed without swapping, less what sockets hold of it.
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
        // No such line (never on a kernel of ours): half of all is a cautious guess.
        let free = field(&info, "MemAvailable:").map_or(total / 2, |kib| kib << 10);
        let free = free.saturating_sub(held_by_sockets(proc, &info, total));
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

/// Bytes that `MemAvailable` counts as reclaimable, and that sockets hold.
///
/// It counts the reclaimable slab, less half of it or the zones' low marks together, whichever is
/// less (`si_mem_available` of the kernel's `mm/show_mem.c`).
fn held_by_sockets(proc: &Path, info: &str, total: u64) -> u64 {
    let kib = |name| field(info, name).map(|kib| kib << 10);
    let all = kib("KReclaimable:").or_else(|| kib("SReclaimable:")).unwrap_or(0);
    let least =
        text(&proc.join("sys/vm/min_free_kbytes")).and_then(|text| text.trim().parse().ok());
    let least: u64 = least.map_or(0, |kib: u64| kib << 10);
    // The default of vm.watermark_scale_factor.
    let low = least + (least / 4).max(total / 1000);
    let counted = |bytes: u64| bytes - (bytes / 2).min(low);
    let held = sockets(proc).saturating_mul(SOCKET_RECLAIMABLE_BYTES).min(all);
    counted(all) - counted(all - held)
}

/// Sockets of this network namespace.
pub(super) fn sockets(proc: &Path) -> u64 {
    let text = text(&proc.join("net/sockstat")).unwrap_or_default();
    field(&text, "sockets: used").unwrap_or(0)
}

/// The number behind a word at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
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

    #[test]
    fn what_sockets_hold_of_the_reclaimable_slab_is_not_available() {
        let available = |sockets: u64, reclaimable: u64| {
            let info = format!("{MEMINFO}KReclaimable: {reclaimable} kB\n");
            let sockets = format!("sockets: used {sockets}\nTCP: inuse 1 mem 2\n");
            let files = [
                ("proc/meminfo", info.as_str()),
                ("proc/self/cgroup", "0::/\n"),
                ("proc/net/sockstat", sockets.as_str()),
                ("proc/sys/vm/min_free_kbytes", "67584\n"),
            ];
            (20_000_000u64 << 10) - fixture(&files).available()
        };
        assert_eq!(available(0, 2_000_000), 0);
        // Much is reclaimable: all that a million sockets hold was counted as available.
        assert_eq!(available(1_000_000, 2_000_000), 1_057_000_000);
        // Little is: half of it was.
        assert_eq!(available(10_000, 20_000), 10_570_000 / 2);
        // Never more than was counted.
        assert_eq!(available(1_000_000, 20_000), (20_000 << 10) / 2);
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
