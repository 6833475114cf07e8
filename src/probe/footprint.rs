//! Turns `/proc` into the memory that the process and the kernel's sockets take.
//!
//! In:    the text of `self/statm`, `meminfo` and `net/sockstat`.
//! Out:   `Footprint`.
//! Never: knows whose sockets they are: the kernel's part is the whole box's.

use std::path::Path;

use rustix::param::page_size;

use super::memory::{SOCKET_RECLAIMABLE_BYTES, sockets};
use super::text;

/// Memory now, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory of this process.
    pub resident: u64,
    /// The box's slab that cannot be reclaimed (sockets, their files and polls lie there), the
    /// inodes and dentries of this namespace's sockets, and its TCP buffers.
    pub kernel: u64,
}

impl Footprint {
    /// Of the running system; what it does not tell is 0.
    #[must_use]
    pub fn read() -> Self {
        Self::read_from(Path::new("/proc"), page_size() as u64)
    }

    fn read_from(proc: &Path, page: u64) -> Self {
        let statm = text(&proc.join("self/statm")).unwrap_or_default();
        let resident = number(statm.split_whitespace().nth(1)) * page;
        let meminfo = text(&proc.join("meminfo")).unwrap_or_default();
        let slab = meminfo.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
        let slab = number(slab.and_then(|rest| rest.split_whitespace().next())) << 10;
        let sockstat = text(&proc.join("net/sockstat")).unwrap_or_default();
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"));
        let mut words = tcp.unwrap_or_default().split_whitespace();
        let buffers = words.by_ref().find(|word| *word == "mem").and_then(|_| words.next());
        let inodes = sockets(proc) * SOCKET_RECLAIMABLE_BYTES;
        Self { resident, kernel: slab + inodes + number(buffers) * page }
    }
}

fn number(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_process_and_the_boxs_sockets_are_weighed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Footprint::read_from(folder.path(), 4096), Footprint::default());
        write("self/statm", "5000 300 200 10 0 900 0\n");
        write("meminfo", "MemTotal: 9 kB\nSReclaimable: 5 kB\nSUnreclaim:   1000 kB\n");
        write("net/sockstat", "sockets: used 3\nTCP: inuse 2 orphan 0 tw 1 alloc 3 mem 7\n");
        let weighed = Footprint::read_from(folder.path(), 4096);
        let kernel = 1_024_000 + 3 * SOCKET_RECLAIMABLE_BYTES + 7 * 4096;
        assert_eq!(weighed, Footprint { resident: 300 * 4096, kernel });
    }
}
