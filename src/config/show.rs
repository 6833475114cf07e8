//! Turns the key table and a configuration into text for people.
//!
//! In:    `KEYS`, a `Loaded`.
//! Out:   the commented defaults, what is in force and why, the README's table.
//! Never: shows a secret.

use std::fmt::Write as _;

use super::keys::Key;
use super::kind::quoted;
use super::load::Loaded;

/// `default.toml`: every key, commented out, with its default.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

const HEADER: &str = "\
# Ringhall: every key with its default. Uncomment what you change.
#
# Read from --config FILE, else from /etc/ringhall/ringhall.toml where that exists; then come
# environment variables (RINGHALL_CLIENT_QUEUE_BYTES), then flags (--set client.queue_bytes=2MiB).
# Later ones win. `ringhall config check` checks, `ringhall config show` says what is in force.
#
# Sizes: a number of bytes, or a string with a unit: \"64KiB\", \"1MiB\", \"10MB\".
# Times: a string with a unit: \"500ms\", \"54s\", \"2m\", \"1h\".
# Keys marked (reload) change on SIGHUP, the others at a restart.
";

/// What `default.toml` must be, by the key table.
#[must_use]
pub fn default_toml() -> String {
    let mut text = HEADER.to_owned();
    let defaults = Loaded::defaults();
    let mut section = "";
    for (key, value, _) in defaults.settings() {
        if key.section() != section {
            section = key.section();
            let _ = writeln!(text, "\n[{section}]");
        }
        let reload = if key.reloadable { " (reload)" } else { "" };
        let _ = writeln!(text, "\n# {}\n# Takes {}.{reload}", key.doc, key.kind.allowed());
        let _ = writeln!(text, "#{} = {value}", key.leaf());
    }
    text
}

/// The README's table of keys.
#[must_use]
pub fn markdown() -> String {
    let mut text =
        "| key | default | takes | reload | what for |\n|---|---|---|---|---|\n".to_owned();
    let defaults = Loaded::defaults();
    for (key, value, _) in defaults.settings() {
        let Key { name, kind, doc, .. } = key;
        let reload = if key.reloadable { "yes" } else { "no" };
        let allowed = kind.allowed();
        let _ = writeln!(text, "| `{name}` | `{value}` | {allowed} | {reload} | {doc} |");
    }
    text
}

impl Loaded {
    /// What is in force as TOML, each value with a comment that says where it came from.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = match &self.file {
            Some(file) => format!("# file: {}\n", quoted(&file.display().to_string())),
            None => "# file: none\n".to_owned(),
        };
        let mut section = "";
        for (key, value, origin) in self.settings() {
            if key.section() != section {
                section = key.section();
                let _ = writeln!(text, "\n[{section}]");
            }
            let _ = writeln!(text, "{} = {value} # from {origin}", key.leaf());
        }
        text
    }
}
