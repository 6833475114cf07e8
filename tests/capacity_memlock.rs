//! Where the memory that a user may lock is what binds, as many shards run as it allows, they hold
//! what is promised, and a number of connections that takes more of them is refused at the start.
//!
//! Root is not charged: the server runs as a user whom nobody else is.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ringhall::limits::{RingUse, SHARDS_MAX};
use ringhall::probe::capacity::{locked_bytes_least, table_connections};
use ringhall::probe::{Facts, ResourceLimit, shards_for, shards_locked};
use rustix::process::geteuid;
use support::Server;
use support::promise::{Fill, expect_within_a_tenth, logged, raise_own_files};

/// Sockets of a shard's table.
const FILES: u64 = 300;
/// What a user may lock less in order to have one shard less.
const PAGE: usize = 4096;

/// The server as such a user, who may lock so many bytes; `case` makes it another user each time,
/// since the kernel gives back what an ended process had locked only a moment later.
fn as_user(may_lock: usize, case: u32, folder: &Path, arguments: &[&str]) -> Command {
    let binary = folder.join("ringhall");
    if !binary.exists() {
        std::fs::copy(Server::command().get_program(), &binary).expect("a copy");
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    let mut command = Command::new("prlimit");
    command.arg(format!("--memlock={may_lock}:{may_lock}"));
    command.arg(format!("--nofile={FILES}:{FILES}"));
    if geteuid().is_root() {
        let id = 400_000 + 32 * (std::process::id() % 100_000) + case;
        command.arg("setpriv").arg(format!("--reuid={id}")).arg(format!("--regid={id}"));
        command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    }
    for (name, _) in Server::command().get_envs() {
        command.env_remove(name);
    }
    command.arg(binary).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(arguments);
    command
}

/// This box, to a user who may lock so much.
fn facts(may_lock: usize) -> Facts {
    let same = |bytes| ResourceLimit { soft: bytes, hard: bytes };
    let facts = Facts::read().as_service();
    Facts { memlock: same(may_lock as u64), nofile: same(FILES), ..facts }
}

/// Whether this kernel counts rings as locked memory; if not, nothing here binds.
#[expect(clippy::print_stdout, reason = "what was not tried here is said aloud")]
fn is_charged() -> bool {
    let is_charged = facts(0).is_charged;
    if !is_charged {
        println!("this kernel does not charge rings to RLIMIT_MEMLOCK (Linux 6.14 does)");
    }
    is_charged
}

#[test]
fn as_many_shards_run_as_may_lock_their_rings_and_hold_what_is_promised() {
    if !is_charged() {
        return;
    }
    raise_own_files();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let enough = locked_bytes_least(&RingUse::default(), 1);
    let server = Server::spawn(as_user(enough, 0, folder.path(), &[]));
    let promise = logged(&server);
    assert_eq!(promise.shards, 1);
    if facts(enough).cpus.len() > 1 {
        assert!(promise.bounded_by.contains("RLIMIT_MEMLOCK"), "{}", promise.bounded_by);
    }
    let fill = Fill::until_refused(&server, 1000);
    expect_within_a_tenth(fill.members, promise.connections);
    drop((fill, server));
    // Less than the reckoning's least is too little in truth.
    let mut command = as_user(enough - PAGE, 1, folder.path(), &[]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("RLIMIT_MEMLOCK"), "{said}");
}

#[test]
fn the_number_of_shards_that_is_reckoned_is_the_number_that_starts() {
    if !is_charged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let usual = RingUse::default();
    let large = RingUse { buffers: 8 * usual.buffers, ..usual };
    for (case, shards, ring) in [(2, 3, usual), (3, 12, usual), (5, 4, large)] {
        let buffers = format!("ring.buffers={}", ring.buffers);
        let enough = locked_bytes_least(&ring, shards);
        assert_eq!(shards_locked(&facts(enough), &ring, SHARDS_MAX), shards);
        let more = (shards + 1).to_string();
        let shards = shards.to_string();
        let arguments = ["--set", buffers.as_str(), "--shards", shards.as_str()];
        let server = Server::spawn(as_user(enough, case, folder.path(), &arguments));
        assert_eq!(logged(&server).shards.to_string(), shards);
        drop(server);
        let arguments = ["--set", buffers.as_str(), "--shards", more.as_str()];
        let output = as_user(enough, case + 8, folder.path(), &arguments).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("RLIMIT_MEMLOCK"), "{more}: {said}");
    }
}

#[test]
fn a_number_of_connections_is_taken_up_to_what_is_promised_and_not_a_tenth_more() {
    if !is_charged() {
        return;
    }
    raise_own_files();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shards = 5.max(facts(0).cpus.len() + 1);
    let ring = RingUse::default();
    let enough = locked_bytes_least(&ring, shards);
    let facts = facts(enough);
    // The most for which the reckoning takes no more shards than there may be.
    let all = shards * table_connections(FILES);
    let promised =
        (1..=all).rev().find(|most| shards_for(&facts, &ring, None, Some(*most)).is_ok());
    let promised = promised.expect("one connection fits");
    assert!(promised * 10 >= all * 9, "{promised} of {all}");
    let set = format!("limits.connections_max={promised}");
    let server = Server::spawn(as_user(enough, 4, folder.path(), &["--set", set.as_str()]));
    assert_eq!((logged(&server).shards, logged(&server).connections), (shards, promised));
    let fill = Fill::until_refused(&server, 2 * promised);
    expect_within_a_tenth(fill.members, promised);
    drop((fill, server));
    let set = format!("limits.connections_max={}", promised + promised / 10);
    let output = as_user(enough, 5, folder.path(), &["--set", set.as_str()]).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("RLIMIT_MEMLOCK") && said.contains(&promised.to_string()), "{said}");
}
