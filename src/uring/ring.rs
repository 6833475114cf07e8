//! Turns entries into one system call, and that into completions in shared memory.
//!
//! In:    how much memory a ring may cost; entries.
//! Out:   a ring as large as it may be; completions.
//! Never: knows what an entry means.
//!
//! # Invariants
//! - A ring is set up, entered and dropped by one thread (`SINGLE_ISSUER`).
//! - `enter` always asks for `GETEVENTS`: deferred task work runs only then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, Probe, opcode};

use crate::limits::{RING_ENTRIES_MAX, RING_ENTRIES_MIN};

use super::error::SetupError;

/// Entries of the smallest submission queue.
const SQ_ENTRIES_MIN: u32 = RING_ENTRIES_MIN as u32;
/// Completion entries a submission entry: a turn posts at most one for each entry, the polls of
/// idle connections post theirs besides, and what does not fit costs the kernel an allocation.
const CQ_PER_SQ: u32 = 8;
/// Completion entries of the last resort, where not even the smallest ring at that ratio fits.
const CQ_ENTRIES_MIN: u32 = 1024;
/// Kernel workers of a ring: only half-closes need one, and these never block for long.
const WORKERS: u32 = 2;
/// Pause after a refused ring: the kernel gives back what it had got hold of by a worker of its
/// own, a moment later, and until then the next one would be refused for it.
const SETUP_PAUSE: Duration = Duration::from_millis(50);
/// Tries of the smallest ring: a ring of a process that has just ended may still be charged.
const SETUP_TRIES: usize = 6;
/// Refusals in a row (no memory for a request) after which the shard gives up.
const ENTER_TRIES: usize = 10_000;

const _: () = assert!(RING_ENTRIES_MAX * CQ_PER_SQ as usize <= 65536, "IORING_MAX_CQ_ENTRIES");

const PAGE: usize = 4096;

/// How long an enter may wait.
#[derive(Clone, Copy, Debug)]
pub(super) enum Linger {
    /// Not at all.
    No,
    /// For so many completions, so long.
    For(usize, Duration),
}

/// The rings that are shared with the kernel.
pub(super) struct Ring(IoUring);

/// Bytes of shared memory that a ring of these sizes locks; measured page by page on Linux 6.18,
/// as a user who is charged (`tests/kernel_setup.rs`).
pub(super) fn ring_bytes(sq: u32, cq: u32) -> usize {
    const ENTRY: usize = 64;
    const COMPLETION: usize = 16;
    // `struct io_rings`: heads, tails, masks and flags, each on a cache line of its own.
    const HEADER: usize = 320;
    (sq as usize * ENTRY).next_multiple_of(PAGE)
        + (HEADER + cq as usize * COMPLETION).next_multiple_of(PAGE)
}

/// Bytes that the smallest ring locks, without the ring of its buffers.
pub(super) fn ring_bytes_least() -> usize {
    ring_bytes(SQ_ENTRIES_MIN, CQ_ENTRIES_MIN)
}

/// The sizes to try, one after the other.
fn sizes(entries_max: u32, ring_bytes_max: usize) -> impl Iterator<Item = (u32, u32)> {
    let ratio = std::iter::successors(Some(entries_max), |sq| Some(sq / 2))
        .take_while(|sq| *sq >= SQ_ENTRIES_MIN)
        .map(|sq| (sq, sq * CQ_PER_SQ))
        .filter(move |(sq, cq)| ring_bytes(*sq, *cq) <= ring_bytes_max);
    ratio.chain(std::iter::repeat_n((SQ_ENTRIES_MIN, CQ_ENTRIES_MIN), SETUP_TRIES))
}

impl Ring {
    /// Sets up the largest ring, of at most `entries_max` entries, that fits `ring_bytes_max` and
    /// what the user may lock, so that `furnish` (what else is registered, and charged) succeeds.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub(super) fn new(
        entries_max: u32,
        ring_bytes_max: usize,
        furnish: impl Fn(&Self) -> Result<(), SetupError>,
    ) -> Result<Self, SetupError> {
        let mut refused = SetupError::Memory { step: "an io_uring", bytes: 0 };
        for (sq, cq) in sizes(entries_max, ring_bytes_max) {
            match Self::of(sq, cq).and_then(|ring| furnish(&ring).map(|()| ring)) {
                Err(error @ SetupError::Memory { .. }) => refused = error,
                done => return done,
            }
            std::thread::park_timeout(SETUP_PAUSE);
        }
        Err(refused)
    }

    fn of(sq: u32, cq: u32) -> Result<Self, SetupError> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(cq)
            .build(sq)
            .map_err(|error| SetupError::sort("an io_uring", ring_bytes(sq, cq), error))?;
        Self::checked(uring)
    }

    /// Refuses a kernel that lacks an operation.
    fn checked(uring: IoUring) -> Result<Self, SetupError> {
        let mut probe = Probe::new();
        let asked = uring.submitter().register_probe(&mut probe);
        asked.map_err(|error| SetupError::sort("the list of io_uring operations", 0, error))?;
        // The newest ones, of 6.0, 6.0 and 6.8; socket options came with 6.7.
        for (code, missing) in [
            (opcode::UringCmd16::CODE, "io_uring's socket options (URING_CMD)"),
            (opcode::MsgRingSendFd::CODE, "io_uring's messages between rings (MSG_RING)"),
            (opcode::FixedFdInstall::CODE, "io_uring's FIXED_FD_INSTALL"),
        ] {
            if !probe.is_supported(code) {
                return Err(SetupError::kernel(missing));
            }
        }
        let limited = uring.submitter().register_iowq_max_workers(&mut [WORKERS, 0]);
        limited.map_err(|error| SetupError::sort("a limit on kernel workers", 0, error))?;
        Ok(Self(uring))
    }

    /// The ring's descriptor, for messages from other rings.
    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Entries of the submission and of the completion queue.
    pub(super) fn entries(&self) -> (u32, u32) {
        (self.0.params().sq_entries(), self.0.params().cq_entries())
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.0.submitter()
    }

    /// The completions that are there.
    pub(super) fn completions(&mut self) -> CompletionQueue<'_> {
        self.0.completion()
    }

    /// Entries that the kernel has not consumed.
    pub(super) fn queued(&mut self) -> usize {
        self.0.submission().len()
    }

    /// Whether no further entry fits.
    pub(super) fn full(&mut self) -> bool {
        self.0.submission().is_full()
    }

    /// Queues an entry.
    ///
    /// # Panics
    /// If the queue is full.
    pub(super) fn push(&mut self, entry: &Entry) {
        // SAFETY: what an entry points to is owned, until its completion (or, for a send, until
        // the enter that consumed it) has been read, by the module that made it: `sends` holds
        // payloads and messages, `sockets` holds addresses and descriptors, `buffers` holds the
        // receive buffers; all of them box or map what they own and outlive the ring. A cancelled
        // operation completes like any other. `UringIo::drop` cancels and drains before these are
        // dropped.
        let pushed = unsafe { self.0.submission().push(entry) };
        assert!(pushed.is_ok(), "the caller makes room first");
    }

    /// Whether the kernel holds back task work or completions until the next enter.
    pub(super) fn behind(&mut self) -> bool {
        let queue = self.0.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions wait in the kernel for room in the completion queue.
    pub(super) fn overflown(&mut self) -> bool {
        self.0.submission().cq_overflow()
    }

    /// Submits what is queued (the kernel may consume less), runs task work, and waits.
    ///
    /// # Errors
    /// Where the kernel has lost a completion, has had no memory for `tries` times, or is used
    /// against its rules: nothing that this shard knows would be true any more.
    pub(super) fn enter(&mut self, linger: Linger, tries: usize) -> io::Result<()> {
        let queued = u32::try_from(self.queued()).unwrap_or(u32::MAX);
        let submitter = self.0.submitter();
        let entered = match linger {
            Linger::No => {
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: the flags ask for no argument and none is given. What the entries point
                // to: see `push`.
                unsafe { submitter.enter::<libc::sigset_t>(queued, 0, flags, None) }
            }
            Linger::For(count, at_most) => {
                let timespec = Timespec::from(at_most);
                submitter.submit_with_args(count, &SubmitArgs::new().timespec(&timespec))
            }
        };
        let Err(error) = entered else { return Ok(()) };
        match error.raw_os_error() {
            // The wait is over, or a signal cut it short: entries that were consumed are consumed.
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // The completion queue is full, or there is no memory for a request just now: the
            // caller reads completions and enters again.
            Some(libc::EBUSY | libc::EAGAIN) if tries < ENTER_TRIES => {
                std::thread::yield_now();
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Lets completions ring the registered eventfd, or not.
    pub(super) fn ring_eventfd(&mut self, on: bool) {
        let queue = self.0.completion();
        if on {
            queue.enable_eventfd();
        } else {
            queue.disable_eventfd();
        }
        drop(queue);
        // What follows (an enter, a look at the queue) must not be done before the kernel can see
        // the flag, or a completion in between would ring nobody.
        fence(Ordering::SeqCst);
    }

    /// Registers the eventfd that completions ring, silent at first.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring_eventfd(false);
        self.0.submitter().register_eventfd(fd.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_ring_that_fits_is_tried_first() {
        assert_eq!(sizes(4096, usize::MAX).next(), Some((4096, 32768)));
        assert_eq!(sizes(8192, usize::MAX).next(), Some((8192, 65536)));
        assert_eq!(sizes(4096, ring_bytes(1024, 8192)).next(), Some((1024, 8192)));
        let refused: Vec<_> = sizes(4096, ring_bytes(512, 4096)).take(3).collect();
        assert_eq!(refused, [(512, 4096), (256, 2048), (256, 1024)]);
        assert_eq!(sizes(4096, 0).next(), Some((256, 1024)));
    }
}
