//! In a network namespace of its own a box has other settings: these are what is examined there.

#[path = "support/doctor.rs"]
#[expect(dead_code, reason = "each test of the doctor uses its part of this")]
mod doctor;

use std::process::Command;

use doctor::{Told, shell};

const ANY: &str = "--set server.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 \
                   --set server.shards=2";

/// Whether this user may have a namespace: not everywhere.
fn may_have_one() -> bool {
    Command::new("unshare").args(["-rn", "true"]).output().is_ok_and(|out| out.status.success())
}

/// Runs the doctor in a new namespace, after these lines.
#[track_caller]
fn inside(lines: &str) -> Told {
    shell(&format!("export doctor; unshare -rn sh -c '{lines}\n exec $doctor {ANY}'"))
}

#[test]
fn a_short_queue_of_the_namespace_is_found_and_the_printed_fix_lengthens_it() {
    if !may_have_one() {
        println!("SKIPPED: this user may have no namespace");
        return;
    }
    let short = "echo 64 > /proc/sys/net/core/somaxconn";
    let fix = inside(short).finds("somaxconn", "WARN", 128);
    let told = inside(&format!("{short}\n {fix} > /dev/null"));
    let check = told.check("somaxconn");
    assert_eq!((&check["status"], &check["measured"]), (&"PASS".into(), &"65535".into()));
}

#[test]
fn a_listener_that_would_reset_those_who_wait_is_found_and_mended() {
    if !may_have_one() {
        println!("SKIPPED: this user may have no namespace");
        return;
    }
    let told = inside("echo 0 > /proc/sys/net/ipv4/tcp_migrate_req");
    let check = told.check("tcp_migrate_req");
    assert_eq!(check["status"], "WARN", "{check:#}");
    let told = inside(&format!("{} > /dev/null", check["fix"].as_str().expect("a fix")));
    assert_eq!(told.check("tcp_migrate_req")["status"], "PASS");
}

#[test]
fn what_only_the_box_has_is_said_not_to_be_seen() {
    if !may_have_one() {
        println!("SKIPPED: this user may have no namespace");
        return;
    }
    let told = inside("true");
    // `net.ipv4.tcp_mem` is the box's alone; there is no card; the loopback device is down.
    for id in ["tcp_mem", "nic"] {
        assert_eq!(told.check(id)["status"], "SKIP", "{:#}", told.check(id));
    }
    assert_eq!(told.check("io_uring")["status"], "PASS", "{:#}", told.check("io_uring"));
}
