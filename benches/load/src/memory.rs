//! What the kernel says about memory and time.
//!
//! In:    `/proc`.
//! Out:   bytes, objects, clock ticks.
//! Never: judges.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

const PAGE: u64 = 4096;
/// Free pages on the lists of single CPUs: the kernel does not count them as free, and on a busy
/// box they come and go by a hundred MiB.
const ON_CPU_LISTS: &str = "on CPU lists";
/// Caches whose pages stay when their objects go, as those of the round before have.
const SOCKET_SLABS: [&str; 3] = ["TCP", "filp", "io_kiocb"];
/// Looks that a settled moment is the middle of, and the pause between them.
const LOOKS: usize = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// A cache of objects of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Slab {
    used: u64,
    /// Objects that there is room for.
    spare: u64,
    /// Bytes of one, its share of the slab's waste included.
    bytes: f64,
}

/// A moment of the whole box.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Lines of `/proc/meminfo`, in bytes.
    lines: BTreeMap<String, u64>,
    /// Slab caches by name.
    slabs: BTreeMap<String, Slab>,
}

impl Memory {
    /// Now.
    ///
    /// # Errors
    /// If `/proc` is not there, or keeps slabinfo from us: only root may read it.
    pub fn now() -> io::Result<Self> {
        let mut memory = Self::default();
        for line in std::fs::read_to_string("/proc/meminfo")?.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(Ok(kib))) = (words.next(), words.next().map(str::parse)) {
                let kib: u64 = kib;
                memory.lines.insert(name.trim_end_matches(':').to_owned(), kib * 1024);
            }
        }
        let mut zones = 0;
        for line in std::fs::read_to_string("/proc/zoneinfo")?.lines() {
            let mut words = line.split_whitespace();
            if let (Some("count:"), Some(Ok(pages))) = (words.next(), words.next().map(str::parse))
            {
                let pages: u64 = pages;
                zones += pages * PAGE;
            }
        }
        memory.lines.insert(ON_CPU_LISTS.to_owned(), zones);
        let slabs = std::fs::read_to_string("/proc/slabinfo")
            .map_err(|error| io::Error::other(format!("/proc/slabinfo (as root): {error}")))?;
        for line in slabs.lines().skip(2) {
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
            if let [Some(used), Some(all), Some(per_slab), Some(pages)] = [1, 2, 4, 5].map(number) {
                let bytes = (pages * PAGE) as f64 / per_slab as f64;
                let slab = Slab { used, spare: all.saturating_sub(used), bytes };
                memory.slabs.insert(words[0].to_owned(), slab);
            }
        }
        Ok(memory)
    }

    /// The middle one of many looks, by what is available and what processes have: neighbours
    /// that start and end move it for a moment.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn settled() -> io::Result<Self> {
        let mut looks = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            looks.push(Self::now()?);
            std::thread::park_timeout(PAUSE);
        }
        looks.sort_by(|a, b| a.unclaimed().total_cmp(&b.unclaimed()));
        Ok(looks.swap_remove(LOOKS / 2))
    }

    /// MemAvailable, and what is free without being counted in it, less what is counted in it and
    /// not to be had: inodes and dentries of sockets, which the kernel takes for reclaimable.
    pub fn available(&self) -> f64 {
        let slab = |name: &str| self.slabs.get(name).copied().unwrap_or_default();
        let spare: f64 = SOCKET_SLABS.map(slab).iter().map(|it| it.spare as f64 * it.bytes).sum();
        let inode = slab("sock_inode_cache");
        let sockets = inode.used as f64 * (inode.bytes + slab("dentry").bytes);
        (self.line("MemAvailable") + self.line(ON_CPU_LISTS)) as f64 + spare - sockets
    }

    /// What is available or belongs to a process: only the kernel's own growth makes it fall.
    pub fn unclaimed(&self) -> f64 {
        self.available() + self.processes()
    }

    fn line(&self, name: &str) -> u64 {
        self.lines.get(name).copied().unwrap_or(0)
    }

    /// What all processes together have mapped for themselves, with the kernel's part of that.
    fn processes(&self) -> f64 {
        ["AnonPages", "PageTables", "KernelStack", "Shmem"]
            .iter()
            .map(|name| self.line(name) as f64)
            .sum()
    }

    /// Objects that a slab cache has grown by, and bytes of memory that each takes.
    pub fn slab(&self, before: &Self, name: &str) -> (f64, f64) {
        let slab = self.slabs.get(name).copied().unwrap_or_default();
        let earlier = before.slabs.get(name).map_or(0, |slab| slab.used);
        (slab.used as f64 - earlier as f64, slab.bytes)
    }
}

/// Resident memory of a process (a number, or `self`), in bytes.
///
/// # Errors
/// If it is gone.
pub fn rss(process: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// User and system time in a `stat` file of `/proc`, in clock ticks.
///
/// # Errors
/// If the process is gone.
pub fn cpu_ticks(stat: &Path) -> io::Result<u64> {
    two_numbers(stat, 11)
}

/// CPU time of this process's children that have ended, in seconds.
///
/// # Errors
/// If `/proc` is not there.
pub fn ended_seconds() -> io::Result<f64> {
    let ticks = two_numbers(Path::new("/proc/self/stat"), 13)?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The sum of two fields behind the command's name, which stands in brackets and may hold anything.
fn two_numbers(stat: &Path, at: usize) -> io::Result<u64> {
    let text = std::fs::read_to_string(stat)?;
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    Ok(fields.split(' ').skip(at).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
}
