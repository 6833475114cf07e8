//! Turns one block of memory into receive buffers that the kernel picks from.
//!
//! In:    buffer numbers from receive completions; buffers given back.
//! Out:   the bytes of a buffer on loan.
//! Never: touches a buffer that is not on loan.
//!
//! # Invariants
//! - A buffer is in the ring (the kernel's), on loan (ours), or spare, in exactly one of these.
//! - The memory is mapped and touched at start, and unmapped after the ring is gone.
//!
//! # Why there are spare ones
//! The kernel takes buffers in the order in which they were given back, so a ring of all of them
//! would go through megabytes of memory that no cache holds. The ring is given only as many as are
//! wanted at a time, the one that was used last first: these stay in the core's own cache.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::io::BufferId;

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

const PAGE: usize = 4096;
/// Submits without a shortage after which half as many are offered.
const CALM_SUBMITS: u32 = 4096;

/// Memory from the kernel, page-aligned, present from the start.
struct Map {
    start: NonNull<u8>,
    len: usize,
}

impl Map {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping aliases nothing; the kernel picks the address.
        // It is owned by the `Map` and unmapped when that is dropped, once.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `Map::new` with this length and is unmapped only here.
        // The kernel no longer writes to it: `UringIo` cancels every receive and closes the ring
        // before its buffers are dropped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The provided buffers of one ring.
pub(super) struct Buffers {
    ring: Map,
    memory: Map,
    bytes: usize,
    count: u16,
    tail: u16,
    lent: Vec<bool>,
    lent_count: usize,
    /// The most that were on loan at once since [`Buffers::take_low`].
    lent_most: usize,
    /// Neither lent nor offered; the last one in is the first one out.
    spare: Vec<BufferId>,
    /// How many the kernel should have at the next enter.
    offered: usize,
    /// The fewest that ever are: twice what one stride of receives takes, for there are heads that
    /// wait for theirs, too.
    offered_min: usize,
    /// Submits since there was a shortage, or since `offered` was halved.
    calm: u32,
}

/// Bytes of the ring of so many buffers; the kernel counts them as locked.
pub(super) fn ring_bytes(count: u16) -> usize {
    (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE)
}

impl Buffers {
    /// Maps `count` buffers of `bytes` each and fills the ring of them, for strides of so many
    /// receives.
    ///
    /// # Errors
    /// If the memory is not to be had.
    ///
    /// # Panics
    /// If `count` is not a power of two up to 32768, or `bytes` is 0 or above `u32::MAX`.
    pub(super) fn new(count: u16, bytes: usize, stride: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a buffer ring's size is a power of two: {count}");
        assert!(bytes > 0 && u32::try_from(bytes).is_ok(), "a buffer of {bytes} bytes");
        let entries = usize::from(count);
        let mut buffers = Self {
            ring: Map::new(ring_bytes(count))?,
            memory: Map::new(entries * bytes)?,
            bytes,
            count,
            tail: 0,
            lent: vec![false; entries],
            lent_count: 0,
            lent_most: 0,
            spare: (0..count).rev().map(BufferId).collect(),
            offered: 2 * stride,
            offered_min: 2 * stride,
            calm: 0,
        };
        buffers.offer();
        Ok(buffers)
    }

    /// Makes the ring known to the kernel.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: the ring's memory is owned by `self.ring`, page-aligned, `count` entries long,
        // and never moves. `UringIo` drops the io_uring before its buffers, so the kernel's use
        // ends first. Entries are shared with the kernel, which only reads what lies between its
        // head and the tail that `release` publishes.
        unsafe {
            submitter.register_buf_ring_with_flags(
                self.ring.start.as_ptr() as u64,
                self.count,
                GROUP,
                0,
            )
        }
    }

    /// Bytes of the ring's memory; the kernel counts them as locked, not those of the buffers.
    pub(super) fn ring_bytes(&self) -> usize {
        self.ring.len
    }

    /// Bytes of one buffer.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Buffers that are not on loan.
    pub(super) fn free(&self) -> usize {
        self.lent.len() - self.lent_count
    }

    /// The fewest that were free at once since this was last asked.
    pub(super) fn take_low(&mut self) -> usize {
        self.lent.len() - std::mem::replace(&mut self.lent_most, self.lent_count)
    }

    /// Notes that the kernel has handed a buffer out.
    ///
    /// # Panics
    /// If it is on loan already.
    pub(super) fn lend(&mut self, id: BufferId) {
        let lent = &mut self.lent[usize::from(id.0)];
        assert!(!*lent, "the kernel handed out buffer {} twice", id.0);
        *lent = true;
        self.lent_count += 1;
        self.lent_most = self.lent_most.max(self.lent_count);
    }

    /// The first `len` bytes of a buffer on loan.
    ///
    /// # Panics
    /// If the buffer is not on loan or not so long.
    pub(super) fn bytes_mut(&mut self, id: BufferId, len: usize) -> &mut [u8] {
        assert!(self.lent[usize::from(id.0)], "buffer {} is not on loan", id.0);
        assert!(len <= self.bytes, "a buffer has {} bytes, not {len}", self.bytes);
        // SAFETY: `self.memory` owns `count * bytes` mapped, initialised bytes that never move, and
        // `id < count`, since `lent` has `count` entries. The buffer is on loan, so the kernel,
        // which took it out of its ring, does not write to it until `release`, which needs the
        // same `&mut self` that this slice borrows.
        unsafe {
            let start = self.memory.start.as_ptr().add(usize::from(id.0) * self.bytes);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// If it is not on loan.
    pub(super) fn release(&mut self, id: BufferId) {
        let lent = &mut self.lent[usize::from(id.0)];
        assert!(*lent, "buffer {} is not on loan", id.0);
        *lent = false;
        self.lent_count -= 1;
        self.spare.push(id);
    }

    /// Gives the kernel what it may want during the next enter.
    pub(super) fn offer(&mut self) {
        self.calm += 1;
        if self.calm == CALM_SUBMITS {
            self.calm = 0;
            self.offered = (self.offered / 2).max(self.offered_min);
        }
        let spare_wanted = self.lent.len().saturating_sub(self.lent_count + self.offered);
        while self.spare.len() > spare_wanted {
            let Some(id) = self.spare.pop() else { break };
            self.put(id);
        }
    }

    /// Notes that the kernel had none when it wanted one: it is offered twice as many.
    pub(super) fn ran_out(&mut self) {
        self.calm = 0;
        self.offered = (self.offered * 2).min(self.lent.len().max(self.offered_min));
    }

    /// Puts a spare buffer into the ring.
    fn put(&mut self, id: BufferId) {
        let place = usize::from(self.tail & (self.count - 1));
        self.tail = self.tail.wrapping_add(1);
        let ring = self.ring.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `self.ring` owns `count` entries and `place < count`. The kernel reads an entry
        // only between its head and the published tail; at most `count` buffers exist and each is
        // in the ring at most once, so `place` lies outside that range until the store below. The
        // setters leave the 16 bits alone that hold the tail in entry 0 (`resv`), and those are
        // only ever accessed as an atomic: by us here, by the kernel reading.
        unsafe {
            let entry = &mut *ring.add(place);
            entry.set_addr(self.memory.start.as_ptr().add(usize::from(id.0) * self.bytes) as u64);
            entry.set_len(u32::try_from(self.bytes).unwrap_or(u32::MAX));
            entry.set_bid(id.0);
            let tail = BufRingEntry::tail(ring).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_lent_and_released_once() {
        let mut buffers = Buffers::new(4, 100, 1).unwrap();
        assert_eq!(buffers.free(), 4);
        buffers.lend(BufferId(2));
        assert_eq!(buffers.free(), 3);
        buffers.bytes_mut(BufferId(2), 100).fill(7);
        buffers.release(BufferId(2));
        assert_eq!(buffers.free(), 4);
        assert_eq!((buffers.take_low(), buffers.take_low()), (3, 4));
    }

    #[test]
    #[should_panic(expected = "not on loan")]
    fn a_buffer_of_the_kernel_cannot_be_read() {
        Buffers::new(4, 100, 1).unwrap().bytes_mut(BufferId(1), 1);
    }

    #[test]
    #[should_panic(expected = "not on loan")]
    fn a_buffer_cannot_be_released_twice() {
        let mut buffers = Buffers::new(4, 100, 1).unwrap();
        buffers.lend(BufferId(0));
        buffers.release(BufferId(0));
        buffers.release(BufferId(0));
    }
}
