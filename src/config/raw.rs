//! Turns the text of a file into keys with values and lines.
//!
//! In:    a file's path and text.
//! Out:   entries whose key exists; problems for all else.
//! Never: looks into a value.

use std::path::Path;

use toml_edit::{Document, Item, TableLike, Value};

use super::keys::{self, KEYS, Key};
use super::problem::{Origin, Problem, did_you_mean};

/// A key that a file sets.
pub(super) struct Entry {
    /// Place of the key in [`KEYS`].
    pub index: usize,
    /// Line, from 1.
    pub line: usize,
    /// What it is set to.
    pub value: Value,
}

/// What a file says.
#[derive(Default)]
pub(super) struct Read {
    /// Its keys.
    pub entries: Vec<Entry>,
    /// What is wrong with the others.
    pub problems: Vec<Problem>,
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    read: Read,
}

/// Reads a file's text.
pub(super) fn read(path: &Path, text: &str) -> Read {
    let mut reader = Reader { path, text, read: Read::default() };
    match Document::parse(text) {
        Ok(document) => reader.sections(document.as_table()),
        Err(error) => {
            let line = error.span().map_or(0, |span| reader.line(span.start));
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            reader.problem(line, None, format!("this is not TOML: {message}"));
        }
    }
    reader.read
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// The line of a key, or of what it names where a key was spelled in several places.
    fn line_of(&self, table: &dyn TableLike, name: &str, item: &Item) -> usize {
        let span = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
        span.map_or(0, |span| self.line(span.start))
    }

    fn problem(&mut self, line: usize, key: Option<String>, text: String) {
        let origin = Origin::File { path: self.path.to_owned(), line };
        self.read.problems.push(Problem { origin, key, text });
    }

    fn sections(&mut self, root: &dyn TableLike) {
        for (section, item) in root.iter() {
            let line = self.line_of(root, section, item);
            let known = keys::sections().contains(&section);
            match item.as_table_like() {
                Some(table) if known => self.keys(section, table),
                Some(_) => self.problem(line, Some(section.to_owned()), unknown_section(section)),
                None if known => {
                    let text = format!("this is a section: write [{section}] and its keys below");
                    self.problem(line, Some(section.to_owned()), text);
                }
                None => self.problem(line, Some(section.to_owned()), unknown_key(section)),
            }
        }
    }

    fn keys(&mut self, section: &str, table: &dyn TableLike) {
        for (leaf, item) in table.iter() {
            let line = self.line_of(table, leaf, item);
            let name = format!("{section}.{leaf}");
            match (keys::find(&name), item.as_value()) {
                (Some((index, _)), Some(value)) => {
                    self.read.entries.push(Entry { index, line, value: value.clone() });
                }
                (Some((_, key)), None) => {
                    let text = format!("got a section; it takes {}", key.kind.allowed());
                    self.problem(line, Some(name), text);
                }
                (None, _) => {
                    let text = unknown_key(&name);
                    self.problem(line, Some(name), text);
                }
            }
        }
    }
}

fn unknown_section(section: &str) -> String {
    match did_you_mean(section, keys::sections().into_iter()) {
        Some(near) => format!("unknown section; did you mean [{near}]?"),
        None => format!("unknown section; there are {}", keys::sections().join(", ")),
    }
}

/// What to say about a name that is no key: the likeliest one, else what there is.
pub(super) fn unknown_key(name: &str) -> String {
    let Some((section, leaf)) = name.split_once('.') else {
        let home = KEYS.iter().find(|key| key.leaf() == name);
        return match (home, did_you_mean(name, keys::sections().into_iter())) {
            (Some(key), _) => format!("unknown key; did you mean {}?", key.name),
            (None, Some(near)) => format!("unknown key; did you mean the section [{near}]?"),
            (None, None) => "unknown key; keys are written section.key".to_owned(),
        };
    };
    if !keys::sections().contains(&section) {
        let full = did_you_mean(name, KEYS.iter().map(|key| key.name));
        return full.map_or_else(
            || unknown_section(section),
            |near| format!("unknown section; did you mean {near}?"),
        );
    }
    let siblings = || KEYS.iter().filter(|key| key.section() == section).map(Key::leaf);
    if let Some(near) = did_you_mean(leaf, siblings()) {
        return format!("unknown key; did you mean {section}.{near}?");
    }
    if let Some(key) = KEYS.iter().find(|key| key.leaf() == leaf) {
        return format!("unknown key; did you mean {}?", key.name);
    }
    format!("unknown key; [{section}] has {}", siblings().collect::<Vec<_>>().join(", "))
}

/// What to say about a variable that sets nothing.
pub(super) fn unknown_variable(variable: &str) -> String {
    let names: Vec<String> = KEYS.iter().map(Key::variable).collect();
    did_you_mean(variable, names.iter().map(String::as_str)).map_or_else(
        || "this variable sets no key; variables are RINGHALL_<SECTION>_<KEY>: unset it".to_owned(),
        |near| format!("this variable sets no key; did you mean {near}?"),
    )
}
