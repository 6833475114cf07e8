//! The units in `tuning/systemd`: what systemd says of them, and what they promise the server.
//!
//! Needs `systemd-analyze` (Debian's package systemd): tests/run installs it and runs this by name.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::Server;

/// Ten times the exposure that is allowed.
const THRESHOLD: &str = "15";

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/systemd").join(name);
    fs::read_to_string(path).expect("a unit of ours")
}

/// The last value of a setting.
#[track_caller]
fn setting(text: &str, key: &str) -> String {
    let value = text.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {key}=")).to_owned()
}

/// A folder with the units as an installation has them, their binary where it is.
fn installed() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/install");
    let binary = Server::command().get_program().to_owned();
    let status = Command::new(install)
        .arg("--root")
        .arg(root.path())
        .arg("--binary")
        .arg(binary)
        .args(["--shards", "2"])
        .output()
        .expect("the script runs");
    assert!(status.status.success(), "{status:?}");
    let service = root.path().join("etc/systemd/system/ringhall.service");
    let text = fs::read_to_string(&service).expect("a unit");
    let here = format!("{}/usr/local/bin/ringhall", root.path().display());
    fs::write(service, text.replace("/usr/local/bin/ringhall", &here)).expect("a unit");
    root
}

fn analyze(arguments: &[&str], units: &[&str]) -> (Output, String) {
    let root = installed();
    let mut command = Command::new("systemd-analyze");
    command.args(arguments);
    for name in units {
        command.arg(root.path().join("etc/systemd/system").join(name));
    }
    let output = command.env("SYSTEMD_PAGER", "").output().expect("systemd-analyze runs");
    let said = [&output.stdout[..], &output.stderr].concat();
    (output, String::from_utf8(said).expect("UTF-8"))
}

#[test]
fn systemd_finds_nothing_wrong_with_them() {
    let (output, said) = analyze(&["verify"], &["ringhall.service", "ringhall.socket"]);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_exposure_is_at_most_one_and_a_half() {
    let threshold = format!("--threshold={THRESHOLD}");
    let arguments = ["security", "--offline=true", &threshold];
    let (output, said) = analyze(&arguments, &["ringhall.service"]);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Overall exposure level for ringhall.service"), "{said}");
}

#[test]
fn a_unit_with_a_mistake_is_noticed() {
    let root = installed();
    let service = root.path().join("etc/systemd/system/ringhall.service");
    let text = fs::read_to_string(&service).expect("a unit");
    fs::write(&service, text.replace("PrivateUsers=yes", "PrivateUzers=yes")).expect("a unit");
    let output = Command::new("systemd-analyze").arg("verify").arg(&service).output();
    let said = String::from_utf8(output.expect("it runs").stderr).expect("UTF-8");
    assert!(said.contains("PrivateUzers"), "{said}");
}

#[test]
fn a_stop_may_take_longer_than_clients_may_take_to_leave() {
    let service = unit("ringhall.service");
    let seconds = setting(&service, "TimeoutStopSec");
    let stop: u64 = seconds.strip_suffix('s').expect("seconds").parse().expect("a number");
    let default = Server::command().args(["config", "default"]).output().expect("it runs");
    let default = String::from_utf8(default.stdout).expect("UTF-8");
    let grace = setting(&default.replace(" = ", "="), "#grace");
    let grace: u64 = grace.trim_matches(['"', 's']).parse().expect("seconds");
    // Beside the grace: cutting (2 s) and the broker's goodbye (10 s).
    assert!(stop > grace + 12, "TimeoutStopSec={stop}s, shutdown.grace={grace}s");
}

#[test]
fn the_service_may_have_the_files_and_the_locked_memory_that_rings_need() {
    let service = unit("ringhall.service");
    assert_eq!(setting(&service, "LimitMEMLOCK"), "infinity");
    // What one ring's table can hold; fs.nr_open allows no more unless it is raised.
    assert_eq!(setting(&service, "LimitNOFILE"), "1048576");
    assert_eq!(setting(&service, "Type"), "notify");
    assert_eq!(setting(&service, "ExecReload"), "/bin/kill -HUP $MAINPID");
    assert!(setting(&service, "ExecStartPre").contains(" doctor --preflight"));
    assert!(setting(&service, "ExecStart").contains(" serve "));
    assert_eq!(setting(&service, "RestartPreventExitStatus"), "2");
}

#[test]
fn a_socket_unit_lists_one_stream_a_shard_and_address() {
    let root = installed();
    let drop_in = root.path().join("etc/systemd/system/ringhall.socket.d/10-shards.conf");
    let text = fs::read_to_string(drop_in).expect("a drop-in");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("ListenStream=")).collect();
    assert_eq!(
        lines,
        ["ListenStream=", "ListenStream=127.0.0.1:8000", "ListenStream=127.0.0.1:8000"]
    );
    assert_eq!(setting(&unit("ringhall.socket"), "ReusePort"), "yes");
}
