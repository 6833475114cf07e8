//! Where a seccomp filter forbids io_uring, the filter is named and not the sysctl.
//!
//! Wants Python, which sets the filter: `tests/run` runs it by name.

#[path = "support/doctor.rs"]
#[expect(dead_code, reason = "each test of the doctor uses its part of this")]
mod doctor;

use doctor::shell;

const ANY: &str = "--set server.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0";

#[test]
fn a_filter_that_forbids_io_uring_is_named_with_what_allows_it() {
    let launcher = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/without_io_uring.py");
    let told = shell(&format!("python3 {launcher} $doctor {ANY}"));
    let fix = told.finds("io_uring", "FAIL", 0);
    let check = told.check("io_uring");
    assert!(check["message"].as_str().is_some_and(|said| said.contains("seccomp")), "{check:#}");
    assert!(fix.contains("SystemCallFilter=@aio") && fix.contains("io_uring_setup"), "{fix}");
    assert_eq!(told.report["capacity"]["connections"], 0);
    assert_eq!(told.report["capacity"]["first_limit"], "io_uring");
    // Before a start too: the unit then says why, and does not try again and again.
    let told = shell(&format!("python3 {launcher} $doctor {ANY} --preflight"));
    assert_eq!(told.code, Some(2));
}
