//! Turns two moments of memory into what connections have taken in between.
//!
//! In:    memory before and after; how many connections.
//! Out:   bytes each, by what the kernel has left and by its slab caches.
//! Never: knows which end a socket belongs to.

use crate::memory::Memory;

/// What `count` connections have taken, in bytes each.
#[derive(Debug)]
pub struct Taken {
    /// Fall of MemAvailable, less what all processes have grown by: neighbours do not count.
    pub clean: f64,
    /// Fall of MemAvailable, less what server and generator have grown by.
    pub plain: f64,
    /// Slab caches: objects and bytes.
    pub slabs: Vec<(&'static str, f64, f64)>,
}

impl Taken {
    /// From one moment to another, while server and generator have grown by `grown` bytes.
    pub fn between(before: &Memory, after: &Memory, grown: f64, count: usize) -> Self {
        let each = |bytes: f64| bytes / count as f64;
        let sockets = after.slab(before, "sock_inode_cache").0;
        let slabs = SLABS.iter().map(|&(name, one_a_socket)| {
            let (objects, bytes) = after.slab(before, name);
            let objects = if one_a_socket { sockets } else { objects };
            (name, each(objects), each(objects * bytes))
        });
        Self {
            clean: each(before.unclaimed() - after.unclaimed()),
            plain: each(before.available() - after.available() - grown),
            slabs: slabs.collect(),
        }
    }
}

/// The caches that a socket lives in. Where every file of the box moves a cache, one object a
/// socket is taken in place of its growth.
pub const SLABS: [(&str, bool); 8] = [
    ("TCP", false),
    ("sock_inode_cache", false),
    ("filp", true),
    ("dentry", true),
    ("lsm_inode_cache", true),
    ("lsm_file_cache", true),
    ("io_kiocb", false),
    ("kmalloc-32", false),
];

/// Bytes of all caches.
pub fn sum(slabs: &[(&str, f64, f64)]) -> f64 {
    slabs.iter().map(|slab| slab.2).sum()
}
