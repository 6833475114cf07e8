//! `ringhall tune` measures only where that says something, and takes back what it wrote.
//!
//! That it measures right is for `tests/tune/quick.py`, which takes a minute and the whole box.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ringhall::tune::write::{Folder, Output as Written, RECORD};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use support::{Server, eventually};

/// How long a run may take that measures nothing.
const REFUSAL: Duration = Duration::from_secs(30);

/// Runs the command with a lock of the test's own.
fn tune(temporary: &Path, arguments: &[&str]) -> Output {
    let mut command = Server::command();
    command.arg("tune").args(arguments).env("TMPDIR", temporary).stdin(Stdio::null());
    command.output().unwrap()
}

#[track_caller]
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "a run that failed has no figures");
    said
}

/// A process that is at work until the end of the test.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What `tune --write` leaves, without waiting for it.
fn written(folder: &Path) {
    let text = "# Nothing.\n".to_owned();
    let outputs = ["ringhall.toml", "ringhall.service.d/10-tuned.conf"]
        .map(|name| Written { name, text: text.clone() });
    Folder::open(folder).unwrap().write(&outputs, true).unwrap();
}

#[test]
fn a_box_that_is_at_work_is_refused_and_nothing_is_left() {
    let temporary = tempfile::tempdir().unwrap();
    let busy: Vec<_> = ringhall::probe::cpus().iter().map(|_| Busy::start()).collect();
    let folder = temporary.path().join("tuned");
    let begin = Instant::now();
    let output = tune(temporary.path(), &["--quick", "--write", folder.to_str().unwrap()]);
    drop(busy);
    let said = refused(&output);
    assert!(said.contains("not quiet") && said.contains("% busy"), "{said}");
    assert!(said.contains("(process ") && said.contains("--force"), "{said}");
    assert!(begin.elapsed() < REFUSAL, "it looked, and did not measure");
    assert!(!folder.exists());
}

#[test]
fn two_runs_at_a_time_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(temporary.path().join("ringhall-tune.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let said = refused(&tune(temporary.path(), &["--force"]));
    assert!(said.contains("another `ringhall tune`"), "{said}");
}

#[test]
fn a_folder_of_others_files_is_refused_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("ringhall.toml");
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    let folder = temporary.path().to_str().unwrap();
    let said = refused(&tune(temporary.path(), &["--write", folder]));
    assert!(said.contains("ringhall.toml") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[log]\nlevel = \"debug\"\n");
    assert!(!temporary.path().join(RECORD).exists());
}

#[test]
fn revert_takes_back_what_was_written_and_restores_what_was_there() {
    let temporary = tempfile::tempdir().unwrap();
    let (folder, file) = (temporary.path().join("tuned"), "ringhall.toml");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(file), "the operator's\n").unwrap();
    written(&folder);
    let output = tune(temporary.path(), &["revert", "--write", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("restored ") && said.contains("removed "), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [file]);
    assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap(), "the operator's\n");
}

#[test]
fn revert_keeps_what_was_edited_since() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("tuned");
    written(&folder);
    std::fs::write(folder.join("ringhall.toml"), "edited\n").unwrap();
    let revert = ["revert", "--write", folder.to_str().unwrap()];
    let output = tune(temporary.path(), &revert);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("edited since"));
    assert!(folder.join("ringhall.toml").exists());
    let forced = tune(temporary.path(), &[&revert[..], &["--force"]].concat());
    assert!(forced.status.success() && !folder.exists(), "{forced:?}");
}

#[test]
fn revert_of_a_folder_that_has_nothing_of_ours_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_str().unwrap();
    let said = refused(&tune(temporary.path(), &["revert", "--write", folder]));
    assert!(said.contains("holds nothing") && said.contains("--write"), "{said}");
}

#[test]
fn what_is_no_folder_is_refused_at_once_without_writing_too() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("tuned");
    std::fs::write(&file, "mine").unwrap();
    for dry in [&["--dry-run"][..], &[]] {
        let arguments = [&["--write", file.to_str().unwrap()], dry].concat();
        let said = refused(&tune(temporary.path(), &arguments));
        assert!(said.contains("--write takes a folder"), "{said}");
    }
}

/// Processes that name this folder in their arguments.
fn processes_of(folder: &Path) -> Vec<Pid> {
    let name = folder.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let names_it = |pid: &i32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(name)
    };
    pids.filter(names_it).filter_map(Pid::from_raw).collect()
}

/// Sees to it that none of them is left where the test fails.
struct Swept<'a>(&'a Path);

impl Drop for Swept<'_> {
    fn drop(&mut self) {
        for pid in processes_of(self.0) {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_run_that_is_killed_leaves_no_server_and_its_folder_can_be_taken_back() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned");
    let mut command = Server::command();
    command.args(["tune", "--force", "--no-progress", "--write"]).arg(&path);
    command.env("TMPDIR", temporary.path()).stdin(Stdio::null());
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // A server reads its configuration from a file that the run holds open.
    let held = PathBuf::from(format!("/proc/{}/fd", run.id()));
    let servers = || processes_of(&held);
    let _swept = Swept(&held);
    eventually(REFUSAL, "a server of the run", || !servers().is_empty());
    run.kill().unwrap();
    run.wait().unwrap();
    eventually(REFUSAL, "the end of its servers", || servers().is_empty());
    assert!(std::fs::read_dir(temporary.path()).unwrap().flatten().all(|entry| {
        // The lock is everybody's, and stays.
        entry.file_name() == "ringhall-tune.lock"
    }));
    let output = tune(temporary.path(), &["revert", "--write", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!path.exists());
}
