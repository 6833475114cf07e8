//! Turns `ringhall doctor --json`, run in whatever a test has broken, into its report.
//!
//! In:    a shell's line in which `$doctor` is the binary with its command.
//! Out:   the report, its exit code; one check by its name.
//! Never: leaves a setting changed: what is for the whole box is put back when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What the examination said.
pub struct Told {
    pub code: Option<i32>,
    pub report: Value,
}

/// Runs a line of shell; `$doctor` in it is `ringhall doctor --json`.
#[track_caller]
pub fn shell(line: &str) -> Told {
    shell_with(Path::new(env!("CARGO_BIN_EXE_ringhall")), line)
}

/// The same with another copy of the binary.
#[track_caller]
pub fn shell_with(binary: &Path, line: &str) -> Told {
    let line = format!("doctor='{} doctor --json'; {line}", binary.display());
    // Not bash: what is printed has to work in any shell.
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RINGHALL_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.output().expect("a shell");
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!(
            "{line}: {status}, {error}: {}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        )
    });
    Told { code: status.code(), report }
}

impl Told {
    /// The check of this name.
    #[track_caller]
    pub fn check(&self, id: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("a list");
        let found = checks.iter().find(|check| check["id"] == id);
        found.unwrap_or_else(|| panic!("no check {id}: {:#}", self.report))
    }

    /// Checks that a check found something that breaks at so many connections; gives its fix.
    #[track_caller]
    pub fn finds(&self, id: &str, status: &str, breaks_at: u64) -> String {
        let check = self.check(id);
        assert_eq!(check["status"], status, "{check:#}");
        assert_eq!(check["breaks_at"], breaks_at, "{check:#}");
        assert_eq!(self.code, Some(if status == "FAIL" { 2 } else { self.least() }), "{check:#}");
        check["fix"].as_str().expect("a fix").to_owned()
    }

    fn least(&self) -> i32 {
        let checks = self.report["checks"].as_array().expect("a list");
        if checks.iter().any(|check| check["status"] == "FAIL") { 2 } else { 1 }
    }
}

/// A sysctl of the whole box, which is put back.
pub struct Sysctl {
    path: PathBuf,
    before: String,
}

impl Sysctl {
    /// Sets it.
    ///
    /// # Panics
    /// If it cannot be set: this wants root.
    #[track_caller]
    pub fn set(name: &str, value: &str) -> Self {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let before = fs::read_to_string(&path).expect("this kernel has it");
        let sysctl = Self { path, before };
        fs::write(&sysctl.path, value).expect("only root may");
        sysctl
    }

    /// What it is now.
    pub fn now(&self) -> String {
        fs::read_to_string(&self.path).expect("it was there")
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).expect("as it was");
    }
}

/// A copy of the binary that anybody may run.
pub fn for_anybody(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let binary = folder.join("ringhall");
    fs::copy(env!("CARGO_BIN_EXE_ringhall"), &binary).expect("a copy");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a mode");
    binary
}
