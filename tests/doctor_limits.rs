//! Limits of a process that are too low are found, with the number at which they bite; the printed
//! fix is run, and then they are not.

#[path = "support/doctor.rs"]
#[expect(dead_code, reason = "each test of the doctor uses its part of this")]
mod doctor;

use std::process::Command;

use doctor::{for_anybody, shell, shell_with};

/// Nobody's ports, two shards, whatever the box has.
const TWO: &str = "--set server.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0 \
                   --set server.shards=2";

#[test]
fn few_files_are_found_and_the_printed_fix_raises_them() {
    // A table keeps six of 256 free.
    let told = shell(&format!("ulimit -n 256; $doctor {TWO}"));
    let fix = told.finds("nofile", "FAIL", 2 * 250);
    assert!(fix.contains("LimitNOFILE="), "for the unit: {fix}");
    assert_eq!(told.report["capacity"]["connections"], 500, "{:#}", told.report["capacity"]);
    assert_eq!(told.report["capacity"]["first_limit"], "nofile");
    if may_raise() {
        let told = shell(&format!("ulimit -n 256; {fix}\n $doctor {TWO}"));
        assert_eq!(told.check("nofile")["status"], "PASS", "{:#}", told.check("nofile"));
    }
    // What every box allows: here the fix is run in place of what was broken.
    let told = shell(&format!("ulimit -n 256; $doctor {TWO} --connections 1500"));
    let fix = told.finds("nofile", "FAIL", 2 * 250);
    let told = shell(&format!("{fix}\n $doctor {TWO} --connections 1500"));
    assert_eq!(told.check("nofile")["measured"], "1024");
    assert_eq!(told.check("nofile")["status"], "PASS", "{:#}", told.check("nofile"));
}

#[test]
fn a_limit_below_what_the_server_itself_opens_leaves_room_for_nobody() {
    let told = shell(&format!("ulimit -n 24; $doctor {TWO}"));
    told.finds("nofile", "FAIL", 0);
    assert_eq!(told.report["capacity"]["connections"], 0);
    assert_eq!(told.report["capacity"]["first_limit"], "nofile");
}

#[test]
fn a_number_that_is_asked_for_sets_what_the_fix_raises_the_limit_to() {
    let told = shell(&format!("ulimit -n 1024; $doctor {TWO} --connections 100000"));
    let fix = told.finds("nofile", "FAIL", 2 * 1004);
    assert!(fix.contains("ulimit -n 65536"), "{fix}");
}

/// Whether this user may raise a limit again (CAP_SYS_RESOURCE): root, but not in every container.
#[expect(clippy::print_stdout, reason = "a part that is skipped is said")]
fn may_raise() -> bool {
    let line = "ulimit -l 64; ulimit -l unlimited";
    let may = Command::new("sh").args(["-c", line]).output().is_ok_and(|out| out.status.success());
    if !may {
        println!("SKIPPED a part: here nobody may raise a limit that is lowered");
    }
    may
}

/// Linux 6.14 charges rings to RLIMIT_MEMLOCK; where none does, nothing can be too little.
fn are_rings_charged() -> bool {
    let told = shell(&format!("ulimit -l 64; $doctor {TWO}"));
    !told.check("memlock")["message"].as_str().is_some_and(|said| said.contains("does not count"))
}

#[test]
fn too_little_locked_memory_is_found_even_by_root_who_is_not_charged() {
    if !are_rings_charged() {
        return;
    }
    let told = shell(&format!("ulimit -l 64; $doctor {TWO}"));
    let fix = told.finds("memlock", "FAIL", 0);
    assert_eq!(told.report["capacity"]["connections"], 0);
    assert_eq!(told.report["capacity"]["first_limit"], "memlock");
    assert!(fix.contains("LimitMEMLOCK=infinity"), "for the unit: {fix}");
    if may_raise() {
        let told = shell(&format!("ulimit -l 64; {fix}\n $doctor {TWO}"));
        assert_eq!(told.check("memlock")["status"], "PASS");
    }
}

#[test]
fn an_ordinary_user_is_told_of_locked_memory_too() {
    if !rustix::process::geteuid().is_root() || !are_rings_charged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let binary = for_anybody(folder.path());
    // A user whom nobody else is, for the limit counts all processes of a user.
    let id = 400_000 + std::process::id();
    let user = format!("setpriv --reuid={id} --regid={id} --clear-groups --inh-caps=-all");
    let told = shell_with(&binary, &format!("ulimit -l 64; {user} $doctor {TWO}"));
    let fix = told.finds("memlock", "FAIL", 0);
    // No memory to try a feature says nothing about the kernel.
    let checks = told.report["checks"].as_array().expect("a list");
    let broken = checks.iter().filter(|check| check["status"] == "FAIL");
    let broken: Vec<_> = broken.filter_map(|check| check["id"].as_str()).collect();
    assert_eq!(broken, ["memlock"]);
    // Where the fix cannot be run: the 8 MiB that most systems allow.
    let mended = if may_raise() { format!("ulimit -l 64; {fix}\n") } else { String::new() };
    let told = shell_with(&binary, &format!("{mended} {user} $doctor {TWO}"));
    assert_eq!(told.check("memlock")["status"], "PASS", "{:#}", told.check("memlock"));
    assert_eq!(told.check("io_uring")["status"], "PASS", "{:#}", told.check("io_uring"));
    // With hardly any no ring can be tried at all, and the cause is still what it is.
    let told = shell_with(&binary, &format!("ulimit -l 8; {user} $doctor {TWO}"));
    told.finds("memlock", "FAIL", 0);
    assert_eq!(told.check("io_uring")["status"], "FAIL");
    assert_eq!(told.report["capacity"]["first_limit"], "memlock");
    // The smallest rings of eight shards fit once and not twice.
    let eight = TWO.replace("shards=2", "shards=8");
    let told = shell_with(&binary, &format!("ulimit -l 700; {user} $doctor {eight}"));
    assert_eq!(told.check("memlock")["status"], "WARN", "{:#}", told.check("memlock"));
}
