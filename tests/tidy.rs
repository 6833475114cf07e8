//! The rules of the house, as tables and as tests that read the source.
//!
//! `ARCHITECTURE.md` gives the reasons. To change a rule, change its table here, in the commit that
//! needs it, and say why there. Each rule is shown to bite by a violation planted in `planted`.

#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::path::Path;

/// Modules in the order in which data flows, and which earlier ones each may use besides the
/// vocabulary. The bin is `main`.
const MODULES: &[(&str, &[&str])] = &[
    // The vocabulary says nothing about the house, and little about itself.
    ("id", &[]),
    ("time", &[]),
    ("counters", &[]),
    ("limits", &["id"]),
    ("payload", &["id"]),
    ("io", &["id", "payload"]),
    ("warn", &["time", "limits"]),
    ("remedy", &[]),
    // Bytes in and out.
    ("uring", &[]),
    ("net", &[]),
    ("proxy", &[]),
    // Head and frame.
    ("http", &[]),
    ("ws", &[]),
    // Connection.
    ("conn", &["http", "ws"]),
    // Room.
    ("room", &[]),
    ("protocol", &["ws", "room"]),
    // Fan-out.
    ("fanout", &["ws", "conn", "room", "protocol"]),
    ("mesh", &["ws", "room"]),
    ("bridge", &["ws", "room", "mesh"]),
    ("shard", &["proxy", "http", "ws", "conn", "room", "protocol", "fanout", "mesh", "bridge"]),
    // The cold half.
    ("control", &["proxy", "http"]),
    ("host", &["uring", "http", "ws", "conn", "mesh", "bridge", "shard", "control"]),
    ("config", &["proxy", "bridge"]),
    ("probe", &["uring"]),
    ("systemd", &[]),
    ("broker", &["ws", "room", "bridge", "mesh", "config"]),
    (
        "server",
        &[
            "uring", "net", "proxy", "http", "conn", "room", "mesh", "bridge", "shard", "control",
            "host", "config", "probe", "systemd", "broker",
        ],
    ),
    ("bench", &["uring", "ws", "probe"]),
    ("doctor", &["uring", "net", "config", "probe"]),
    ("tune", &["uring", "config", "probe", "bench"]),
    ("log", &[]),
    ("cli", &["config", "probe", "server", "bench", "doctor", "tune", "log"]),
    ("main", &["cli"]),
];

/// How many modules of `MODULES`, from its start, are the vocabulary that everyone may use.
const VOCABULARY: usize = 8;

/// Crates, and the modules that are their home. Every dependency of `Cargo.toml` has a row.
const CRATES: &[(&str, &[&str])] = &[
    ("async-nats", &["broker"]),
    ("axum", &["control"]),
    ("base64", &["control"]),
    ("bytes", &["control", "broker"]),
    ("cadence", &["control"]),
    ("clap", &["cli"]),
    ("crossbeam", &["mesh", "bridge", "shard"]),
    ("fastrand", &["shard", "room", "conn", "control", "host", "server", "broker", "bench"]),
    ("hashbrown", &["room"]),
    ("hdrhistogram", &["bench"]),
    ("headers", &["control"]),
    ("http-body-util", &["control"]),
    ("httparse", &["http", "bench"]),
    ("hyper", &["control"]),
    ("hyper-util", &["control"]),
    ("io-uring", &["uring"]),
    ("krafka", &["broker"]),
    ("lapin", &["broker"]),
    ("libc", &["uring"]),
    ("listenfd", &["systemd"]),
    ("memchr", &["http", "room"]),
    ("mimalloc", &["main"]),
    ("prometheus-client", &["control"]),
    ("percent-encoding", &["http", "control", "broker"]),
    ("futures-util", &["broker"]),
    ("redis", &["broker"]),
    (
        "rustix",
        &[
            "io", "remedy", "uring", "net", "mesh", "host", "control", "probe", "server", "bench",
            "doctor", "tune", "cli",
        ],
    ),
    ("rustls", &["broker"]),
    ("sd-notify", &["systemd"]),
    ("serde", &["protocol", "control", "config"]),
    ("serde_json", &["protocol", "control", "config", "probe", "bench", "doctor", "tune"]),
    ("sha2", &["control"]),
    ("simdutf8", &["ws"]),
    ("socket2", &["net", "bench"]),
    ("strsim", &["config"]),
    ("subtle", &["control"]),
    ("tokio", &["bridge", "host", "server", "control", "broker"]),
    ("tokio-uring", &["host", "server"]),
    ("toml_edit", &["config"]),
    ("tower", &["control"]),
    ("tower-http", &["control"]),
    ("tracing", EVERYWHERE),
    ("tracing-appender", &["log", "cli"]),
    ("tracing-subscriber", &["log", "cli"]),
    ("tungstenite", &["ws"]),
];

/// For a crate that any module may use.
const EVERYWHERE: &[&str] = &["*"];

/// Where `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &["uring"];

/// Lines of a file, with its tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, from `fn` to its brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters of a line.
const LINE_CHARS_MAX: usize = 100;

/// Words that no name may hold: they say nothing about what a thing does.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "misc", "miscellaneous"];

/// Words that no text of the project may hold, written so that this file does not.
const UNWANTED_WORDS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[ign", "ore"),
    concat!("farm", "-bench"),
    concat!("farm", "-studio"),
    concat!("sub", "agent"),
    concat!(".lib", "rary"),
    concat!("/wo", "rk/"),
];

/// Endings of the files that are read as text, and names of those without an ending.
const TEXT_ENDINGS: &[&str] = &[
    "rs", "toml", "md", "sh", "py", "js", "mjs", "html", "css", "json", "conf", "service",
    "socket", "txt", "cfg", "inc",
];
const TEXT_NAMES: &[&str] = &[
    "run",
    "apply",
    "revert",
    "check",
    "install",
    "uninstall",
    "confined",
    "freeze",
    "cluster-demo",
];
/// Folders that hold what others wrote or what a build left.
const FOREIGN_FOLDERS: &[&str] = &["target", "node_modules", "corpus", "artifacts", "runs"];

/// The project's texts by path, such as `src/http/head.rs`.
pub type Tree = BTreeMap<String, String>;

/// Reads every text of the project.
fn project() -> Tree {
    let mut tree = Tree::new();
    read_folder(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut tree);
    tree
}

fn read_folder(root: &Path, folder: &str, tree: &mut Tree) {
    let entries = std::fs::read_dir(root.join(folder)).expect("a readable folder");
    for entry in entries {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().into_string().expect("names are UTF-8");
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().expect("a file has a type");
        let foreign = FOREIGN_FOLDERS.contains(&name.as_str()) || name == ".git";
        if kind.is_dir() && !foreign {
            read_folder(root, &path, tree);
        } else if kind.is_file() && is_text(&name) {
            // A file of that ending that is not UTF-8 is no text of ours.
            if let Ok(text) = std::fs::read_to_string(entry.path()) {
                tree.insert(path, text);
            }
        }
    }
}

fn is_text(name: &str) -> bool {
    match name.rsplit_once('.') {
        Some((_, "lock")) => false,
        Some((_, ending)) => TEXT_ENDINGS.contains(&ending) && !name.ends_with("-lock.json"),
        None => TEXT_NAMES.contains(&name),
    }
}

/// Fails with everything that is wrong, not with the first.
#[track_caller]
fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn the_table_of_modules_only_points_back() {
    assert_none(rules::table_order());
}

#[test]
fn a_module_uses_the_vocabulary_and_what_its_row_names() {
    assert_none(rules::imports(&project()));
}

#[test]
fn every_crate_has_a_row_and_stays_at_home() {
    let tree = project();
    assert_none(rules::crate_rows(&tree));
    assert_none(rules::crate_homes(&tree));
}

#[test]
fn unsafe_stands_where_it_is_listed() {
    assert_none(rules::unsafe_homes(&project()));
}

#[test]
fn files_functions_and_lines_fit_a_reading_a_screen_and_a_column() {
    assert_none(rules::sizes(&project()));
}

#[test]
fn a_module_opens_with_what_goes_in_what_comes_out_and_what_it_never_does() {
    assert_none(rules::headers(&project()));
}

#[test]
fn names_say_something() {
    assert_none(rules::names(&project()));
}

#[test]
fn no_text_is_left_undone_or_speaks_of_where_it_was_written() {
    assert_none(rules::words(&project()));
}

#[test]
fn every_source_file_belongs_to_a_module() {
    assert_none(rules::reachable(&project()));
}

#[test]
fn every_key_stands_in_the_readme() {
    assert_none(rules::documented_keys(&project()));
}
