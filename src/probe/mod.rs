//! Turns what the kernel tells about this box into facts to admit by.
//!
//! In:    `/proc`, `/sys/fs/cgroup`, affinity, resource limits, `uname`.
//! Out:   `Facts`; from them how many shards to run and how many connections to admit
//!        (`capacity`).
//! Never: changes anything, or fails where a file is missing: what cannot be read does not bind.

pub mod capacity;
pub mod fingerprint;
mod footprint;
mod memory;
mod zones;

use std::path::Path;

use rustix::process::{Resource, getrlimit};

pub use capacity::{
    Bound, Capacity, Clients, DoesNotFit, memory_reserve, shards_for, shards_locked,
};
pub use fingerprint::Fingerprint;
pub use footprint::Footprint;
pub use memory::Memory;

/// The oldest kernel that this data plane runs on: 6.8 brought `FIXED_FD_INSTALL`.
const KERNEL_LEAST: (u32, u32) = (6, 8);

/// A resource limit of this process; `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// In force.
    pub soft: u64,
    /// What it may be raised to without privilege.
    pub hard: u64,
}

/// Linux 6.14 counts rings as locked memory.
const CHARGES_SINCE: (u32, u32) = (6, 14);
/// The capability (`linux/capability.h`) whose owner is not charged for locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// What this box has and allows, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// CPUs that this process may run on; never empty.
    pub cpus: Vec<usize>,
    /// RLIMIT_NOFILE: descriptors, and sockets of one ring's table.
    pub nofile: ResourceLimit,
    /// RLIMIT_MEMLOCK in bytes: what rings are charged to, per user.
    pub memlock: ResourceLimit,
    /// Whether rings are charged to RLIMIT_MEMLOCK at all: not those of root (CAP_IPC_LOCK), and
    /// not before Linux 6.14.
    pub is_charged: bool,
    /// Memory that a connection could still take.
    pub memory: Memory,
    /// Low, pressure and high mark of `net.ipv4.tcp_mem`, in pages.
    pub tcp_mem: Option<[u64; 3]>,
    /// Open files the whole box still allows (`fs.file-max` less those that are open).
    pub files: Option<u64>,
}

impl Facts {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        let proc = Path::new("/proc");
        let sys = proc.join("sys");
        Self {
            cpus: cpus(),
            nofile: limit(Resource::Nofile),
            memlock: limit(Resource::Memlock),
            is_charged: charges_rings(&release()) && !may_lock_all(proc),
            memory: Memory::read(proc, Path::new("/sys/fs/cgroup")),
            tcp_mem: text(&sys.join("net/ipv4/tcp_mem")).and_then(|text| tcp_mem(&text)),
            files: text(&sys.join("fs/file-nr")).and_then(|text| files(&text)),
        }
    }

    /// The same as a server of an ordinary user would find it, which raises its limits as far as it
    /// may: for a reckoning before there is one, even by root.
    #[must_use]
    pub fn as_service(mut self) -> Self {
        let nr_open = text(Path::new("/proc/sys/fs/nr_open"));
        let nr_open = nr_open.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
        // The kernel refuses to set a limit whose hard part is beyond it.
        if self.nofile.hard <= nr_open {
            self.nofile.soft = self.nofile.hard;
        }
        self.memlock.soft = self.memlock.hard;
        self.is_charged = charges_rings(&release());
        self
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether this kernel counts a ring as locked memory.
fn charges_rings(release: &str) -> bool {
    version(release) >= CHARGES_SINCE
}

/// Whether this process has CAP_IPC_LOCK over the whole box, and not only in a user namespace.
fn may_lock_all(proc: &Path) -> bool {
    let status = text(&proc.join("self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let users = text(&proc.join("self/uid_map")).unwrap_or_default();
    let is_first = users.split_whitespace().eq(["0", "0", "4294967295"]);
    is_first && effective.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

/// CPUs of the affinity mask, ascending; never empty.
#[must_use]
pub fn cpus() -> Vec<usize> {
    let mask = rustix::thread::sched_getaffinity(None);
    let listed: Vec<usize> = mask.map_or_else(
        // More CPUs than a mask of 1024 has bits: the count still is known.
        |_| (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
        |mask| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect(),
    );
    if listed.is_empty() { vec![0] } else { listed }
}

fn limit(resource: Resource) -> ResourceLimit {
    let limit = getrlimit(resource);
    ResourceLimit {
        soft: limit.current.unwrap_or(u64::MAX),
        hard: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// Checks that the kernel is new enough.
///
/// # Errors
/// One sentence for the operator.
pub fn check_kernel() -> Result<(), String> {
    check_release(&release())
}

/// The first two numbers of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn check_release(release: &str) -> Result<(), String> {
    if version(release) >= KERNEL_LEAST {
        return Ok(());
    }
    let (major, minor) = KERNEL_LEAST;
    Err(format!(
        "Ringhall needs Linux {major}.{minor} or newer and this is {release}: upgrade the kernel \
         (Debian 13 and Ubuntu 24.04 have a newer one)"
    ))
}

/// A small file's text; `None` where it cannot be read.
fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The number behind a word with which a line begins.
fn number_behind(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()
}

/// `net.ipv4.tcp_mem`: three numbers of pages.
fn tcp_mem(text: &str) -> Option<[u64; 3]> {
    let mut marks = text.split_whitespace().map(str::parse);
    let mut next = || marks.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// `fs.file-nr`: open, unused, most.
fn files(text: &str) -> Option<u64> {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let open = numbers.next()?.ok()?;
    let most = numbers.nth(1)?.ok()?;
    Some(most.saturating_sub(open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_box_has_cpus_limits_and_memory() {
        let facts = Facts::read();
        assert!(!facts.cpus.is_empty() && facts.cpus.is_sorted());
        assert!(facts.nofile.soft > 0 && facts.nofile.soft <= facts.nofile.hard);
        assert!(facts.memory.total > 0 && facts.memory.available() > 0);
        let marks = facts.tcp_mem.expect("this kernel has TCP");
        assert!(marks.is_sorted());
        assert!(facts.files.expect("this kernel counts files") > 0);
    }

    #[test]
    fn an_old_kernel_is_refused_in_one_sentence() {
        for good in ["6.8.0", "6.8", "6.18.44-cloud-amd64", "7.0.0-rc1", "10.1"] {
            assert_eq!(check_release(good), Ok(()), "{good}");
        }
        for old in ["6.7.12", "5.15.0-91-generic", "6", "", "x"] {
            let sentence = check_release(old).unwrap_err();
            assert!(sentence.contains("6.8") && sentence.contains(old), "{sentence}");
            assert_eq!(sentence.lines().count(), 1);
        }
    }

    #[test]
    fn who_is_charged_for_rings_depends_on_the_kernel_and_on_capabilities() {
        assert!(charges_rings("6.14.0") && charges_rings("7.1"));
        assert!(!charges_rings("6.13.9") && !charges_rings("6.8"));
        let may = |effective: &str, users: &str| {
            let folder = tempfile::tempdir().unwrap();
            let own = folder.path().join("self");
            std::fs::create_dir(&own).unwrap();
            let status = format!("Name:\tx\nCapEff:\t{effective}\n");
            std::fs::write(own.join("status"), status).unwrap();
            std::fs::write(own.join("uid_map"), users).unwrap();
            may_lock_all(folder.path())
        };
        let all = "         0          0 4294967295\n";
        assert!(may("000001ffffffffff", all) && may("0000000000004000", all));
        assert!(!may("0000000000000000", all) && !may("000001ffffffbfff", all));
        assert!(!may("000001ffffffffff", "0 100000 65536\n"), "root of a user namespace only");
    }

    #[test]
    fn a_service_raises_what_it_may_and_is_charged_whoever_asks() {
        let facts = Facts {
            nofile: ResourceLimit { soft: 10, hard: 20 },
            memlock: ResourceLimit { soft: 30, hard: 40 },
            is_charged: false,
            ..Facts::read()
        };
        let service = facts.clone().as_service();
        assert_eq!((service.nofile.soft, service.memlock.soft), (20, 40));
        assert_eq!(service.is_charged, charges_rings(&release()));
        let beyond = ResourceLimit { soft: 10, hard: u64::MAX };
        let service = Facts { nofile: beyond, ..facts }.as_service();
        assert_eq!(service.nofile.soft, 10, "more than fs.nr_open cannot be set");
    }

    #[test]
    fn numbers_of_the_kernel_are_read() {
        assert_eq!(tcp_mem("287901\t383869\t575802\n"), Some([287_901, 383_869, 575_802]));
        assert_eq!(tcp_mem("1 2"), None);
        assert_eq!(files("519\t0\t2466183\n"), Some(2_465_664));
        assert_eq!(files("9 0 9223372036854775807"), Some(9_223_372_036_854_775_798));
        assert_eq!(files("9 0 5"), Some(0));
        assert_eq!(files(""), None);
    }
}
