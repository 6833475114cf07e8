//! Turns "one run at a time" into a lock that ends with its process.
//!
//! In:    nothing.
//! Out:   `Lock`, or who else measures here.
//! Never: leaves anything locked: the kernel lets go of it with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::Fault;

/// The file's name in the folder of temporary files. It stays there: a lock on a file that is
/// removed would not keep out who opens the next one.
const NAME: &str = "ringhall-tune.lock";

/// Held while a run measures.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the box's one lock.
    ///
    /// # Errors
    /// If another run holds it, or the file cannot be had.
    pub fn take() -> Result<Self, Fault> {
        Self::at(&std::env::temp_dir().join(NAME))
    }

    fn at(path: &Path) -> Result<Self, Fault> {
        let file = open(path).map_err(|error| cannot(path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Fault::new(format!(
                "another `ringhall tune` measures on this box (it holds {}): wait for its end; two \
                 at a time would measure each other",
                path.display()
            ))),
            Err(error) => Err(cannot(path, &error.into())),
        }
    }
}

/// Another user's file will do: a lock needs no more than to read.
fn open(path: &Path) -> io::Result<File> {
    let follow_nothing = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(follow_nothing);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.write(true).create(true).mode(0o644).open(path)
        }
        outcome => outcome,
    }
}

fn cannot(path: &Path, error: &io::Error) -> Fault {
    let path: PathBuf = path.to_owned();
    Fault::new(format!(
        "cannot lock {}, which keeps two runs apart: {error}; remove it, or set TMPDIR to a folder \
         of your own",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_until_the_first_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let first = Lock::at(&path).unwrap();
        let refused = Lock::at(&path).unwrap_err().to_string();
        assert!(refused.contains("another `ringhall tune`"), "{refused}");
        drop(first);
        Lock::at(&path).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let refused = Lock::at(&link).unwrap_err().to_string();
        assert!(refused.contains("TMPDIR"), "{refused}");
        assert!(!target.exists());
    }
}
