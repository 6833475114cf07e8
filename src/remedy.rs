//! Turns what the kernel refuses to a server that starts into what its operator can do about it.
//!
//! In:    an error of the operating system.
//! Out:   the end of a sentence; nothing where the error says it all.
//! Never: knows what was being done.

use std::io;

use rustix::io::Errno;

/// What to do about an error, put so that it can follow the error's own words.
#[must_use]
pub fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => {
            "; this process may open too few files (RLIMIT_NOFILE): raise it (LimitNOFILE=65536 \
             in the unit, or `ulimit -n 65536`), or use fewer --shards"
        }
        Some(Errno::NFILE) => {
            "; the whole box has too many files open: raise `sysctl fs.file-max`, or end what \
             holds them"
        }
        Some(Errno::AGAIN) => {
            "; too many threads run (RLIMIT_NPROC of this user, TasksMax of the unit): raise it, \
             or use fewer --shards"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shortage_has_its_own_remedy() {
        let said = |errno: Errno| remedy(&errno.into());
        assert!(said(Errno::MFILE).contains("LimitNOFILE"));
        assert!(said(Errno::NFILE).contains("fs.file-max"));
        assert!(said(Errno::AGAIN).contains("TasksMax"));
        assert_eq!(said(Errno::PERM), "");
    }
}
