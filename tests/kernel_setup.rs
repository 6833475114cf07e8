//! Pins: what a ring costs of the memory that a user may lock, and that it shrinks to fit.
//!
//! Why this test must never be deleted: root is not charged, so every other test here passes with
//! rings that an ordinary user could never have. The 8 MiB that most systems allow are shared by
//! all rings of all processes of the user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use ringhall::uring::{Setup, SetupError, UringIo};
use rustix::process::{Resource, getrlimit};

/// Bytes of a ring of 256 and 1024 entries, and of the ring of one buffer.
const SMALLEST: usize = 36_864 + 4096;
/// The same with 2048 completion entries.
const SMALL: usize = 53_248 + 4096;

fn setup(table_slots: u32) -> Result<UringIo, SetupError> {
    let ring_bytes_max = SMALL;
    UringIo::new(Setup {
        listeners: Vec::new(),
        table_slots,
        buffers: 1,
        buffer_bytes: 64,
        entries: 4096,
        stride: 64,
        send: ringhall::limits::SendMode::Send,
        ring_bytes_max,
        defer_accept: false,
        enters_max: ringhall::uring::ENTERS_MAX,
    })
}

/// What a child that may lock so much makes of it.
fn as_user_who_may_lock(bytes: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("kernel_setup");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("prlimit");
    command.arg(format!("--memlock={bytes}:{bytes}"));
    if rustix::process::geteuid().is_root() {
        // A user whom nobody else is, for the limit counts all processes of a user.
        let id = 100_000 + std::process::id();
        command.arg("setpriv").arg(format!("--reuid={id}")).arg(format!("--regid={id}"));
        command.arg("--clear-groups");
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
    }
    command.arg(binary).args([
        "--exact",
        "a_ring_shrinks_to_what_its_user_may_lock",
        "--nocapture",
    ]);
    let output = command.env("RINGHALL_TEST_CHILD", "1").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_ring_shrinks_to_what_its_user_may_lock() {
    if std::env::var_os("RINGHALL_TEST_CHILD").is_some() {
        match setup(4) {
            Ok(io) => println!("made {:?} of {}", io.entries(), io.ring_bytes()),
            Err(error) => println!("refused: {error}"),
        }
        return;
    }
    if as_user_who_may_lock(0).contains("made (256, 2048)") {
        // This kernel does not count rings as locked memory (Linux 6.18 does): nothing shrinks.
        return;
    }
    let said = as_user_who_may_lock(SMALL);
    assert!(said.contains(&format!("made (256, 2048) of {SMALL}")), "{said}");
    let said = as_user_who_may_lock(SMALL - 4096);
    assert!(said.contains(&format!("made (256, 1024) of {SMALLEST}")), "{said}");
    let said = as_user_who_may_lock(SMALLEST - 4096);
    assert!(said.contains("refused") && said.contains("LimitMEMLOCK=infinity"), "{said}");
}

#[test]
fn a_table_beyond_the_limit_on_open_files_is_explained() {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let slots = files.min(ringhall::limits::TABLE_SLOTS_MAX as u64) as u32 + 1;
    let Err(error) = setup(slots) else { panic!("a table of {slots}") };
    assert!(error.to_string().contains("LimitNOFILE"), "{error}");
}
