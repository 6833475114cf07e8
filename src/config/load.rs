//! Lays the layers over each other and collects every problem on the way.
//!
//! In:    `Sources`: a file's path, the environment, flags.
//! Out:   `Loaded`, or all problems; what a reload would change.
//! Never: reads the environment itself, so that a test can give its own.
//!
//! # Invariants
//! - `settings[i]` belongs to `KEYS[i]`.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::keys::{self, KEYS, Key};
use super::kind::Given;
use super::problem::{Origin, Problem};
use super::{Config, check, raw};

/// The file that is read, where it exists, when no other is named.
pub const DEFAULT_FILE: &str = "/etc/ringhall/ringhall.toml";
/// What our environment variables begin with.
const PREFIX: &str = "RINGHALL_";

/// A key set on the command line.
#[derive(Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag, for messages: `--listen`.
    pub name: &'static str,
    /// `section.key`.
    pub key: String,
    /// As it was written.
    pub value: String,
}

/// What a configuration is made from.
#[derive(Clone, PartialEq, Eq)]
pub struct Sources {
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Vec<Flag>,
}

impl Sources {
    /// A file (`None`: [`DEFAULT_FILE`] where it exists), the environment, of which what does not
    /// begin with `RINGHALL_` is passed over, and flags, of which later ones win.
    #[must_use]
    pub fn new(
        file: Option<PathBuf>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<Flag>,
    ) -> Self {
        let ours = |name: &str| name.starts_with(PREFIX) && !is_service_link(name);
        // `RINGHALL_X=` is how compose files spell "not set".
        let mut variables: Vec<_> =
            environment.filter(|(name, value)| ours(name) && !value.is_empty()).collect();
        variables.sort();
        Self { file, variables, flags }
    }

    /// Nothing but the defaults: no file, no environment, no flags.
    #[cfg(test)]
    pub(super) fn flags_only(flags: &[(&str, &str)]) -> Self {
        let flag = |(key, value): &(&str, &str)| Flag {
            name: "--set",
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        Self::new(None, std::iter::empty(), flags.iter().map(flag).collect())
    }
}

/// Whether an orchestrator set the variable, not the operator: Kubernetes and Docker give every
/// container the addresses of a service named `ringhall` as `RINGHALL_PORT_8000_TCP_ADDR` and such.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

/// One value in force, spelled in TOML (a secret in clear), and where it came from.
#[derive(Clone)]
struct Setting {
    text: String,
    origin: Origin,
}

/// A checked configuration with its provenance.
#[derive(Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    settings: Vec<Setting>,
    sources: Sources,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Settings and sources may hold a secret in clear.
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What differs between two configurations, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys whose new value may be put in force at once.
    pub reloadable: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub restart: Vec<&'static str>,
}

/// Loads and checks.
///
/// # Errors
/// Every problem of every layer, and every combination that cannot be.
pub fn load(sources: Sources) -> Result<Loaded, Vec<Problem>> {
    let mut layers = Layers::new();
    let file = layers.file(sources.file.as_deref());
    for (name, value) in &sources.variables {
        layers.variable(name, value);
    }
    for flag in &sources.flags {
        layers.flag(flag);
    }
    layers.combinations();
    if !layers.problems.is_empty() {
        // In the order in which the operator finds them: a file from its top, then outer layers.
        layers.problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        return Err(layers.problems);
    }
    Ok(Loaded { config: layers.config, file, settings: layers.settings, sources })
}

impl Loaded {
    /// The built-in defaults.
    #[must_use]
    pub fn defaults() -> Self {
        let Layers { config, settings, .. } = Layers::new();
        Self {
            config,
            file: None,
            settings,
            sources: Sources::new(None, std::iter::empty(), vec![]),
        }
    }

    /// Loads again from the same sources: what SIGHUP asks for.
    ///
    /// # Errors
    /// As [`load`].
    pub fn reload(&self) -> Result<Self, Vec<Problem>> {
        load(self.sources.clone())
    }

    /// The keys whose values differ between two configurations.
    #[must_use]
    pub fn reload_differences(old: &Self, new: &Self) -> Differences {
        let mut differences = Differences::default();
        for ((key, old), new) in KEYS.iter().zip(&old.settings).zip(&new.settings) {
            if old.text == new.text {
                continue;
            }
            let list = match key.reloadable {
                true => &mut differences.reloadable,
                false => &mut differences.restart,
            };
            list.push(key.name);
        }
        differences
    }

    /// Each key with its value as TOML (a secret is not shown) and where that came from.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Key, String, &Origin)> {
        let both = KEYS.iter().zip(&self.settings);
        both.map(|(key, setting)| (key, setting.shown(key), &setting.origin))
    }
}

impl Setting {
    fn shown(&self, key: &Key) -> String {
        key.kind.veiled(&self.text)
    }
}

/// The text of a file. Whatever else bears the name is not opened: a pipe that nobody writes to
/// would hold up the start, or a reload, for ever.
fn read_regular(path: &Path) -> io::Result<String> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    std::fs::read_to_string(path)
}

struct Layers {
    config: Config,
    settings: Vec<Setting>,
    problems: Vec<Problem>,
    /// Keys that have a problem already: what they would combine to is not worth a word.
    broken: Vec<&'static str>,
}

impl Layers {
    fn new() -> Self {
        let mut config = Config::blank();
        let mut default = |key: &Key| {
            let read = key.kind.read(Given::Text(key.default), &mut config);
            let text = read.expect("a test reads every default of the table");
            Setting { text, origin: Origin::Default }
        };
        let settings = KEYS.iter().map(&mut default).collect();
        Self { config, settings, problems: Vec::new(), broken: Vec::new() }
    }

    fn set(&mut self, index: usize, given: Given<'_>, origin: Origin) {
        let key = &KEYS[index];
        let fault = match key.kind.read(given, &mut self.config) {
            Ok(text) => {
                self.settings[index] = Setting { text, origin };
                return;
            }
            Err(fault) => fault,
        };
        let got = match key.kind.is_secret() {
            true => "a value that is not shown here".to_owned(),
            false => given.shown(),
        };
        let reason = match fault.reason {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        let remedy = match fault.remedy {
            Some(remedy) => format!("write {remedy}"),
            None => format!("the default is {}", Self::default_of(index)),
        };
        let text = format!("got {got}{reason}; it takes {}; {remedy}", key.kind.allowed());
        self.broken.push(key.name);
        self.problems.push(Problem { origin, key: Some(key.name.to_owned()), text });
    }

    fn default_of(index: usize) -> String {
        let mut blank = Config::blank();
        let key = &KEYS[index];
        key.kind.read(Given::Text(key.default), &mut blank).unwrap_or_default()
    }

    /// Reads the file that is named, or the usual one; answers with the path of what was read.
    fn file(&mut self, named: Option<&Path>) -> Option<PathBuf> {
        let path = named.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let text = match read_regular(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                let text = match error.kind() {
                    ErrorKind::NotFound => "no such file: check the path given to --config".into(),
                    ErrorKind::IsADirectory => "this is a folder: name the file in it".into(),
                    ErrorKind::InvalidInput => {
                        "this is not a regular file (a pipe, a socket or a device): name a file \
                         that SIGHUP can read again"
                            .into()
                    }
                    ErrorKind::InvalidData => "this is not UTF-8 text: save it as UTF-8".into(),
                    _ => format!("cannot be read ({error}): make it readable to this user"),
                };
                let origin = Origin::File { path: path.to_owned(), line: 0 };
                self.problems.push(Problem { origin, key: None, text });
                return None;
            }
        };
        let read = raw::read(path, &text);
        self.problems.extend(read.problems);
        for entry in read.entries {
            let origin = Origin::File { path: path.to_owned(), line: entry.line };
            self.set(entry.index, Given::Toml(&entry.value), origin);
        }
        Some(path.to_owned())
    }

    fn variable(&mut self, name: &str, value: &str) {
        let origin = Origin::Environment(name.to_owned());
        match KEYS.iter().position(|key| key.variable() == name) {
            Some(index) => self.set(index, Given::Text(value), origin),
            None => {
                let text = raw::unknown_variable(name);
                self.problems.push(Problem { origin, key: None, text });
            }
        }
    }

    fn flag(&mut self, flag: &Flag) {
        let origin = Origin::Flag(flag.name);
        match keys::find(&flag.key) {
            Some((index, _)) => self.set(index, Given::Text(&flag.value), origin),
            None => {
                let text = raw::unknown_key(&flag.key);
                self.problems.push(Problem { origin, key: Some(flag.key.clone()), text });
            }
        }
    }

    fn combinations(&mut self) {
        for combination in check::COMBINATIONS {
            if combination.keys.iter().any(|key| self.broken.contains(key)) {
                continue;
            }
            let Some(text) = (combination.broken)(&self.config) else { continue };
            let values: Vec<(&Key, &Setting)> = combination
                .keys
                .iter()
                .filter_map(|name| keys::find(name))
                .map(|(index, key)| (key, &self.settings[index]))
                .collect();
            // The latest layer is the one that broke what the earlier ones had in order.
            let Some((key, setting)) = values.iter().max_by_key(|(_, s)| &s.origin) else {
                continue;
            };
            let shown: Vec<String> = values
                .iter()
                .map(|(key, s)| format!("{} = {} from {}", key.name, s.shown(key), s.origin))
                .collect();
            let text = format!("{text} ({})", shown.join("; "));
            let (origin, key) = (setting.origin.clone(), Some(key.name.to_owned()));
            self.problems.push(Problem { origin, key, text });
        }
    }
}
