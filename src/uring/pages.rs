//! Turns huge pages off for the process, where they would cost memory and win nothing.
//!
//! In:    a process that has just begun.
//! Out:   memory in pages of 4 KiB from then on.
//! Never: touches what is mapped already.

use std::io;

/// Asks the kernel for small pages alone, whatever the allocator advises.
///
/// # Errors
/// What the kernel says.
pub fn small_pages() -> io::Result<()> {
    // SAFETY: PR_SET_THP_DISABLE takes one flag and three zeros, and no memory of ours.
    let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
