//! Sysctls of the whole box that are wrong are found, with the number at which they bite; the
//! printed fix is run, and then they are not. Everything is put back.
//!
//! Wants root, and the box for itself for the second that it takes: `tests/run` runs it by name,
//! one test at a time.

#[path = "support/doctor.rs"]
#[expect(dead_code, reason = "each test of the doctor uses its part of this")]
mod doctor;

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use doctor::{Sysctl, shell};

const ANY: &str = "--set server.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 \
                   --set server.shards=2";

/// One setting at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn run(fix: &str) {
    let status = Command::new("sh").args(["-c", &format!("{fix}\n")]).output().expect("a shell");
    assert!(status.status.success(), "{fix}: {}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn too_little_tcp_memory_is_found_and_mended() {
    let _alone = alone();
    // Enough for the sockets of this test, and of its neighbours.
    let sysctl = Sysctl::set("net.ipv4.tcp_mem", "20000 30000 36000");
    let told = shell(&format!("$doctor {ANY} --connections 300000"));
    let fix = told.finds("tcp_mem", "WARN", 36_000);
    run(&fix);
    let told = shell(&format!("$doctor {ANY} --connections 300000"));
    assert_eq!(told.check("tcp_mem")["status"], "PASS", "{:#}", told.check("tcp_mem"));
    assert!(!sysctl.now().contains("36000"), "the fix was run");
    // A tenth of what is asked for: not for large broadcasts alone.
    drop(sysctl);
    let _sysctl = Sysctl::set("net.ipv4.tcp_mem", "20000 30000 36000");
    shell(&format!("$doctor {ANY} --connections 1000000")).finds("tcp_mem", "FAIL", 36_000);
}

#[test]
fn a_small_table_of_tracked_connections_is_found_and_mended() {
    let _alone = alone();
    if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() {
        println!("SKIPPED: this kernel tracks no connections");
        return;
    }
    let _sysctl = Sysctl::set("net.netfilter.nf_conntrack_max", "5000");
    let told = shell(&format!("$doctor {ANY}"));
    let check = told.check("conntrack");
    assert!(check["status"] == "WARN" || check["status"] == "FAIL", "{check:#}");
    assert_eq!(check["breaks_at"], 5000, "{check:#}");
    run(check["fix"].as_str().expect("a fix"));
    assert_eq!(shell(&format!("$doctor {ANY}")).check("conntrack")["status"], "PASS");
}

#[test]
fn io_uring_that_is_off_is_found_and_mended() {
    let _alone = alone();
    let sysctl = Sysctl::set("kernel.io_uring_disabled", "2");
    let told = shell(&format!("$doctor {ANY}"));
    let fix = told.finds("io_uring", "FAIL", 0);
    let limit = &told.check("io_uring")["limit"];
    assert_eq!(limit, "kernel.io_uring_disabled = 2");
    run(&fix);
    let told = shell(&format!("$doctor {ANY}"));
    assert_eq!(told.check("io_uring")["status"], "PASS", "{:#}", told.check("io_uring"));
    assert_eq!(sysctl.now().trim(), "0");
    // For root it works then; the service's user is another matter.
    drop(sysctl);
    let _sysctl = Sysctl::set("kernel.io_uring_disabled", "1");
    assert_eq!(shell(&format!("$doctor {ANY}")).check("io_uring")["status"], "WARN");
}

#[test]
fn too_few_files_of_the_box_are_found_and_mended() {
    let _alone = alone();
    let open = std::fs::read_to_string("/proc/sys/fs/file-nr").expect("it is there");
    let open: u64 = open.split_whitespace().next().expect("a word").parse().expect("a number");
    let _sysctl = Sysctl::set("fs.file-max", &(open + 9000).to_string());
    let told = shell(&format!("$doctor {ANY}"));
    let check = told.check("file_max");
    assert_eq!(check["status"], "FAIL", "{check:#}");
    assert!(check["breaks_at"].as_u64().is_some_and(|at| at < 10_000 && at > 5000), "{check:#}");
    assert_eq!(told.report["capacity"]["first_limit"], "file_max");
    run(check["fix"].as_str().expect("a fix"));
    assert_eq!(shell(&format!("$doctor {ANY}")).check("file_max")["status"], "PASS");
}
