//! Turns what a kernel answers to the setting up of a ring into what an operator can do about it.
//!
//! In:    the step that failed and its errno.
//! Out:   `SetupError`, a sentence with cause and remedy.
//! Never: retries.

use std::fmt;
use std::io;

/// Oldest kernel on which every operation that the data plane needs exists.
pub const KERNEL_MIN: &str = "6.8";

/// Why a ring could not be set up.
#[derive(Debug)]
pub enum SetupError {
    /// The memory that a user may lock is used up.
    Memory {
        /// What was being set up.
        step: &'static str,
        /// Bytes that the smallest attempt asked for.
        bytes: usize,
    },
    /// The kernel refuses io_uring to this process.
    Forbidden,
    /// The kernel has no io_uring, or one without something that is needed.
    Kernel {
        /// What is missing.
        missing: &'static str,
        /// `uname -r`.
        release: String,
    },
    /// The table of direct descriptors is larger than the limit on open files.
    Table {
        /// Sockets that the table was to hold.
        slots: u32,
    },
    /// Anything else.
    Other {
        /// What was being set up.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl SetupError {
    /// Sorts an error by its remedy. `bytes` is what the smallest attempt would have locked.
    pub(super) fn sort(step: &'static str, bytes: usize, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::Memory { step, bytes },
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::kernel("io_uring"),
            Some(libc::EINVAL) => Self::kernel(step),
            _ => Self::Other { step, error },
        }
    }

    /// A kernel that lacks something.
    pub(super) fn kernel(missing: &'static str) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::Kernel { missing, release }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { step, bytes } => write!(
                f,
                "the kernel refused {bytes} bytes of locked memory for {step}: this user's \
                 RLIMIT_MEMLOCK is used up by the rings of all its processes; raise it with \
                 `LimitMEMLOCK=infinity` in the systemd unit or `ulimit -l unlimited` in the \
                 shell, or use fewer --shards"
            ),
            Self::Forbidden => write!(
                f,
                "the kernel forbids io_uring to this process: `sysctl kernel.io_uring_disabled` \
                 says so (0 allows it, 1 the group in `kernel.io_uring_group`), or a seccomp \
                 filter does, of a container or of a systemd unit whose SystemCallFilter= lacks \
                 @aio"
            ),
            Self::Kernel { missing, release } => write!(
                f,
                "this kernel ({release}) lacks {missing}, which Ringhall needs: run Linux \
                 {KERNEL_MIN} or newer"
            ),
            Self::Table { slots } => write!(
                f,
                "a ring's table of {slots} sockets is larger than this process's limit on open \
                 files: raise it with `LimitNOFILE=` in the systemd unit or `ulimit -n` in the \
                 shell, or set a smaller `limits.connections_max`"
            ),
            Self::Other { step, error } => write!(f, "cannot set up {step}: {error}"),
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Other { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32) -> String {
        SetupError::sort("a ring", 4096, io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn each_refusal_names_its_remedy() {
        assert!(said(libc::ENOMEM).contains("LimitMEMLOCK=infinity"));
        assert!(said(libc::EPERM).contains("kernel.io_uring_disabled"));
        assert!(said(libc::ENOSYS).contains(KERNEL_MIN));
        assert!(said(libc::EINVAL).contains("lacks a ring"));
        assert!(said(libc::EIO).contains("cannot set up a ring"));
    }
}
