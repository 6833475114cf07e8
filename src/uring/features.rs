//! Turns what the data plane needs of a kernel into a list that says, part by part, what is there.
//!
//! In:    nothing; it sets up small rings of its own and asks them.
//! Out:   `Feature`s, each with what it is for and whether this kernel has it.
//! Never: guesses by the kernel's version: what is not tried is not listed.

use std::io;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

/// One thing of the kernel's that the data plane uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is called: letters, digits and `_`.
    pub name: &'static str,
    /// The kernel that brought it.
    pub since: &'static str,
    /// What the server cannot do without it.
    pub lost: &'static str,
    /// Whether it works here; `None` where this user may not lock the memory to try it.
    pub works: Option<bool>,
}

/// Entries of a ring that is only asked.
const ENTRIES: u32 = 8;
/// Completion entries of one: not what the kernel would choose.
const COMPLETIONS: u32 = 64;

/// Tries of a ring that the kernel has no memory for: those that were closed just now may still be
/// charged to this user.
const TRIES: usize = 5;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries to set a ring up in one way.
type Set = fn(&mut io_uring::Builder);
/// Ways of setting a ring up; the server uses all of them at once.
const SETUPS: &[(&str, &str, &str, Set)] = &[
    ("CQSIZE", "5.5", "a queue that a burst of events fits", |b| {
        b.setup_cqsize(COMPLETIONS);
    }),
    ("SUBMIT_ALL", "5.18", "one bad operation would hold up all that stand behind it", |b| {
        b.setup_submit_all();
    }),
    ("TASKRUN_FLAG", "5.19", "a shard would not know that the kernel has more to say", |b| {
        b.setup_coop_taskrun().setup_taskrun_flag();
    }),
    ("SINGLE_ISSUER", "6.0", "the ring would be locked as if threads shared it", |b| {
        b.setup_single_issuer();
    }),
    ("DEFER_TASKRUN", "6.1", "the kernel would interrupt a turn for each event", |b| {
        b.setup_single_issuer().setup_defer_taskrun();
    }),
    ("NO_SQARRAY", "6.6", "each operation would be written down twice", |b| {
        b.setup_no_sqarray();
    }),
];

/// Asks a ring for a registration.
type Ask = fn(&IoUring) -> io::Result<()>;
/// What is registered with a ring.
const REGISTRATIONS: &[(&str, &str, &str, Ask)] = &[
    ("IOWQ_MAX_WORKERS", "5.15", "the kernel would start as many threads as it likes", |ring| {
        ring.submitter().register_iowq_max_workers(&mut [1, 0])
    }),
    ("FILES_SPARSE", "5.19", "each connection would need a descriptor", |ring| {
        ring.submitter().register_files_sparse(ENTRIES)
    }),
];

/// What a ring carries out.
const OPERATIONS: &[(&str, &str, &str, u8)] = &[
    ("ACCEPT", "5.5", "nobody could connect", opcode::AcceptMulti::CODE),
    ("POLL_ADD", "5.1", "an idle connection would hold a buffer", opcode::PollAdd::CODE),
    ("RECV", "5.6", "nothing could be received", opcode::Recv::CODE),
    ("SEND", "5.6", "nothing could be sent", opcode::Send::CODE),
    ("SENDMSG", "5.3", "what waits for a slow reader would be copied", opcode::SendMsg::CODE),
    ("SHUTDOWN", "5.11", "a close handshake could not end", opcode::Shutdown::CODE),
    ("CLOSE", "5.6", "a connection could not be closed", opcode::Close::CODE),
    ("ASYNC_CANCEL", "5.5", "a poll could not be taken back", opcode::AsyncCancel2::CODE),
    ("FILES_UPDATE", "5.6", "no connection could be taken in", opcode::FilesUpdate::CODE),
    ("MSG_RING", "6.0", "no connection could move to its room", opcode::MsgRingSendFd::CODE),
    ("URING_CMD", "6.7", "a peer's address would stay unknown", opcode::UringCmd16::CODE),
    ("FIXED_FD_INSTALL", "6.8", "no plain HTTP", opcode::FixedFdInstall::CODE),
];

/// Whether something works: no memory says nothing about that.
fn judge(attempt: impl Fn() -> io::Result<()>) -> Option<bool> {
    for _ in 0..TRIES {
        match attempt().map_err(|error| error.raw_os_error()) {
            Err(Some(libc::ENOMEM)) => std::thread::park_timeout(PAUSE),
            outcome => return Some(outcome.is_ok()),
        }
    }
    None
}

/// Sets a ring up and lets it do nothing, once: the shortest way to find out whether this process
/// may use io_uring at all (setup, registrations and enter may each be forbidden).
///
/// # Errors
/// What the kernel says.
pub fn try_out() -> io::Result<()> {
    let mut ring = IoUring::new(ENTRIES)?;
    ring.submitter().register_probe(&mut Probe::new())?;
    let nothing = opcode::Nop::new().build();
    // SAFETY: the entry points to no memory.
    let pushed = unsafe { ring.submission().push(&nothing) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().map_or(0, |completion| completion.result());
    if done < 0 { Err(io::Error::from_raw_os_error(-done)) } else { Ok(()) }
}

/// Tries everything that the data plane needs, bit by bit.
///
/// # Errors
/// What the kernel says to a ring without anything: then there is nothing to list.
pub fn features() -> io::Result<Vec<Feature>> {
    let plain = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    plain.submitter().register_probe(&mut probe)?;
    let setups = SETUPS.iter().map(|&(name, since, lost, set)| {
        let mut builder = IoUring::builder();
        set(&mut builder);
        let works = judge(|| builder.build(ENTRIES).map(drop));
        Feature { name, since, lost, works }
    });
    let registrations = REGISTRATIONS.iter().map(|&(name, since, lost, ask)| Feature {
        name,
        since,
        lost,
        works: judge(|| ask(&plain)),
    });
    let operations = OPERATIONS.iter().map(|&(name, since, lost, code)| Feature {
        name,
        since,
        lost,
        works: Some(probe.is_supported(code)),
    });
    Ok(setups.chain(registrations).chain(operations).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_these_tests_has_everything() {
        let all = features().unwrap();
        assert_eq!(all.len(), SETUPS.len() + REGISTRATIONS.len() + OPERATIONS.len());
        let missing: Vec<_> = all.iter().filter(|feature| feature.works != Some(true)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn without_memory_nothing_is_said_to_be_missing() {
        let refused = |errno| judge(|| Err(io::Error::from_raw_os_error(errno)));
        assert_eq!((refused(libc::ENOMEM), refused(libc::EINVAL)), (None, Some(false)));
        assert_eq!(judge(|| Ok(())), Some(true));
    }

    #[test]
    fn what_is_not_there_is_not_said_to_work() {
        let mut probe = Probe::new();
        IoUring::new(ENTRIES).unwrap().submitter().register_probe(&mut probe).unwrap();
        assert!(!probe.is_supported(u8::MAX));
    }
}
