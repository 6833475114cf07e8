//! Turns a text into a file without a place, which is gone with the process that made it.
//!
//! In:    a text.
//! Out:   a path under which this process, and any other of its user, reads it.
//! Never: leaves anything behind, however the process ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// The file.
#[derive(Debug)]
pub(super) struct Scrap(File);

impl Scrap {
    /// With that text in it.
    pub(super) fn of(text: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create("ringhall-tune", MemfdFlags::CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok(Self(file))
    }

    /// Where it is read, while this lives.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_regular_file_that_is_read_again_and_again_and_then_gone() {
        let scrap = Scrap::of("[server]\n").unwrap();
        let path = scrap.path();
        assert!(std::fs::metadata(&path).unwrap().is_file());
        for _ in 0..2 {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "[server]\n");
        }
        drop(scrap);
        assert!(!path.exists());
    }
}
