//! `tuning/install` and `tuning/uninstall`, into a folder that stands for a box.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::Server;

const UNIT: &str = "etc/systemd/system/ringhall.service";
const SHARDS: &str = "etc/systemd/system/ringhall.socket.d/10-shards.conf";
const TOML: &str = "etc/ringhall/ringhall.toml";

/// A box that is a folder.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(script);
        let mut command = Command::new(script);
        command.arg("--root").arg(self.0.path()).args(arguments);
        if command.get_program().to_string_lossy().ends_with("/install") {
            command.arg("--binary").arg(Server::command().get_program());
        }
        // A bare environment will do.
        command.env_clear().output().expect("the script runs")
    }

    /// Runs a script that succeeds; what it said.
    #[track_caller]
    fn script(&self, script: &str, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(script, arguments);
        let said = String::from_utf8(stdout).expect("UTF-8");
        assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
        said
    }

    /// Every file there is, with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((path.clone(), fs::read(path).expect("a file")));
                }
            }
        }
        files.sort();
        files
    }
}

/// The `ListenStream=` lines of the drop-in.
fn streams(scene: &Scene) -> Vec<String> {
    let text = scene.text(SHARDS);
    text.lines().filter_map(|line| line.strip_prefix("ListenStream=")).map(str::to_owned).collect()
}

#[test]
fn everything_is_put_in_place_and_what_is_next_is_said() {
    let scene = Scene::new();
    let said = scene.script("install", &["--shards", "3"]);
    let mode = |name: &str| {
        let metadata = fs::metadata(scene.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("usr/local/bin/ringhall"), 0o755);
    for name in [UNIT, "etc/systemd/system/ringhall.socket", SHARDS, TOML] {
        assert_eq!(mode(name), 0o644, "{name}");
    }
    assert_eq!(streams(&scene), ["", "127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8000"]);
    for part in ["config check", "doctor", "systemctl enable --now", "3 shards"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let check = Command::new(scene.path("usr/local/bin/ringhall"))
        .args(["config", "check", "--config"])
        .arg(scene.path(TOML))
        .output()
        .expect("it runs");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_second_install_changes_nothing() {
    let scene = Scene::new();
    scene.script("install", &[]);
    let first = scene.files();
    scene.script("install", &[]);
    let second = scene.files();
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&first), names(&second));
    assert!(first == second, "the same content");
}

#[test]
fn what_was_changed_stays_and_the_new_text_lies_beside_it() {
    let scene = Scene::new();
    scene.script("install", &["--shards", "2"]);
    let toml = "[server]\nlisten = [\"127.0.0.1:8080\", \"[::1]:8443\"]\nshards = 2\n";
    fs::write(scene.path(TOML), toml).expect("a file");
    for _ in 0..2 {
        let said = scene.script("install", &[]);
        assert!(said.contains("kept as you have it: /etc/ringhall/ringhall.toml"), "{said}");
        assert_eq!(scene.text(TOML), toml);
        assert!(scene.text(&format!("{TOML}.new")).contains("#listen"));
        // Ours, and by the configuration now.
        let twice = |address| [address, address];
        let expected = [twice("127.0.0.1:8080"), twice("[::1]:8443")].concat();
        assert_eq!(streams(&scene)[1..], expected);
    }
    let said = scene.script("uninstall", &[]);
    assert!(said.contains("kept, you have changed it"), "{said}");
    let mut left: Vec<_> = scene.files().into_iter().map(|(path, _)| path).collect();
    left.retain(|path| !path.ends_with("share/ringhall/installed"));
    assert_eq!(left, [scene.path(TOML)]);
    assert_eq!(scene.text(TOML), toml);
    // A box that has a configuration already: nothing was ever put there by us.
    let said = scene.script("install", &[]);
    assert!(said.contains("kept as you have it"), "{said}");
    assert_eq!(scene.text(TOML), toml);
    scene.script("uninstall", &["--purge"]);
    assert!(scene.files().is_empty());
}

#[test]
fn what_an_uninstall_has_kept_a_later_purge_takes() {
    let scene = Scene::new();
    scene.script("install", &[]);
    let unit = scene.text(UNIT) + "# mine\n";
    fs::write(scene.path(UNIT), &unit).expect("a file");
    for _ in 0..2 {
        let said = scene.script("uninstall", &[]);
        assert!(said.contains("kept, you have changed it") && said.contains("--purge"), "{said}");
        assert_eq!(scene.text(UNIT), unit);
    }
    scene.script("uninstall", &["--purge"]);
    assert!(scene.files().is_empty(), "{:?}", scene.files());
}

#[test]
fn an_ordinary_user_is_told_of_sudo_before_anything_is_touched() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for script in ["install", "uninstall"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(script);
        // A prefix that belongs to nobody, where a script that does not ask would begin.
        let scene = Scene::new();
        fs::set_permissions(scene.0.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
        let share = scene.path("share/ringhall");
        fs::create_dir_all(&share).expect("a folder");
        fs::write(share.join("installed"), "").expect("a file");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-s", "--"]);
        command.arg("--prefix").arg(scene.0.path());
        if script == "install" {
            command.args(["--binary", "/bin/true"]);
        }
        // By its text: a checkout may lie where only root may look.
        let text = fs::File::open(&path).expect("a script");
        let Output { status, stderr, .. } = command.stdin(text).output().expect("setpriv runs");
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert!(!status.success() && said.contains("sudo"), "{script}: {said}");
        assert_eq!(scene.files().len(), 1, "nothing was touched");
    }
}

#[test]
fn an_uninstall_takes_everything_away() {
    let scene = Scene::new();
    scene.script("install", &["--prefix", "/opt/ringhall"]);
    let unit = scene.text(UNIT);
    assert!(unit.contains("ExecStart=/opt/ringhall/bin/ringhall serve"), "{unit}");
    assert!(!unit.contains("/usr/local/bin/ringhall"), "{unit}");
    assert!(scene.path("opt/ringhall/bin/ringhall").exists());
    scene.script("uninstall", &["--prefix", "/opt/ringhall"]);
    assert!(scene.files().is_empty());
    assert!(!scene.path("etc/ringhall").exists());
    let said = scene.script("uninstall", &[]);
    assert!(said.contains("nothing is installed"), "{said}");
}

#[test]
fn a_wrong_flag_or_configuration_is_told_with_its_remedy() {
    let scene = Scene::new();
    for (arguments, code, part) in [
        (&["--shards", "many"][..], 1, "takes a number"),
        (&["--prefix", "opt"], 1, "begins with /"),
        (&["--frobnicate"], 2, "--root DIR"),
    ] {
        let Output { status, stderr, .. } = scene.run("install", arguments);
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(scene.files().is_empty(), "nothing was touched");
    fs::create_dir_all(scene.path("etc/ringhall")).expect("a folder");
    for (text, parts) in [
        ("lissen = 3", ["config check", "lissen"]),
        ("listen = \"127.0.0.1:0\"", ["server.listen", "127.0.0.1:8000"]),
    ] {
        fs::write(scene.path(TOML), format!("[server]\n{text}\n")).expect("a file");
        let Output { status, stderr, .. } = scene.run("install", &[]);
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(scene.files().len(), 1, "nothing was put anywhere");
    }
}
