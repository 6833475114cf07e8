//! A bench says what is wrong with its options before it builds or starts anything.

use std::path::Path;
use std::process::{Command, Output};

/// The command, in a bare environment, with a server that cannot be one.
fn bench(name: &str, options: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let mut command = Command::new(script);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("RINGHALL_BIN", "/bin/false");
    command.args(options).output().unwrap()
}

#[test]
fn what_makes_no_sense_is_bad_usage_and_says_what_does() {
    for (name, options, said) in [
        ("idle", &["--members", "9"][..], "from 10 on"),
        ("idle", &["--connections", "100"], "no option --connections"),
        ("echo", &["--seconds"], "takes a number"),
        ("echo", &["--seconds", "-1"], "takes a number"),
        ("storm", &["--rounds", "2"], "no option --rounds"),
        ("bigroom", &["--long"], "no option --long"),
        ("million", &["--connections", "a[0]"], "takes a number"),
        ("million", &["--connections", "99"], "from 100 on"),
        ("holding", &["--wat"], "no option --wat"),
        ("scrape", &["--rounds", "0"], "from 1 on"),
    ] {
        let output = bench(name, options);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name} {options:?}: {wrong}");
        assert!(wrong.contains(said), "{name} {options:?}: {wrong}");
        assert!(wrong.contains(&format!("usage: benches/{name} ")), "{wrong}");
    }
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../echo");
    let output = Command::new(script).env("RINGHALL_BIN", "/no/such/server").output().unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{wrong}");
    assert!(wrong.contains("/no/such/server") && wrong.contains("cannot be run"), "{wrong}");
}
