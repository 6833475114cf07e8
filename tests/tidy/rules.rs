//! The rules themselves: from the project's texts to what is wrong with them, a line each.
//!
//! In:    a `Tree`; the tables of `tests/tidy.rs`.
//! Out:   violations: where, what, and what is allowed.
//! Never: reads a file, or stops at the first.

use std::collections::BTreeSet;

use super::source::{
    Token, declared, functions, modules_elsewhere, paths_within_crate, text_at, tokens,
    without_comments_and_strings, without_unit_tests,
};
use super::{
    CRATES, EMPTY_WORDS, EVERYWHERE, FILE_LINES_MAX, FUNCTION_LINES_MAX, LINE_CHARS_MAX, MODULES,
    Tree, UNSAFE_HOMES, UNWANTED_WORDS, VOCABULARY,
};

/// A source file and where it stands in the house.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
    code: String,
    /// Such as `["http", "head"]`; empty for `lib.rs`.
    module: Vec<&'a str>,
}

fn sources(tree: &Tree) -> Vec<Source<'_>> {
    let within = tree.iter().filter_map(|(path, text)| {
        let name = path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let name = name.strip_suffix("/mod").unwrap_or(name);
        let module = if name == "lib" { Vec::new() } else { name.split('/').collect() };
        Some(Source { path, text, code: without_comments_and_strings(text), module })
    });
    within.collect()
}

fn row(module: &str) -> Option<&'static [&'static str]> {
    MODULES.iter().find(|row| row.0 == module).map(|row| row.1)
}

/// An arrow may only point to an earlier row; so there is no circle.
pub fn table_order() -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, (module, uses)) in MODULES.iter().enumerate() {
        for used in *uses {
            let place = MODULES.iter().position(|row| row.0 == *used);
            if place.is_none_or(|place| place >= at) {
                wrong.push(format!("MODULES: {module} may not use {used}, which is not before it"));
            }
        }
    }
    wrong
}

/// DESIGN: a stage may use the vocabulary and what its row names, and nothing else of the house.
pub fn imports(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources(tree) {
        let tokens = tokens(&source.code);
        let Some(&stage) = source.module.first() else {
            // lib.rs: every module that it declares has a row.
            let missing = modules_elsewhere(&tokens).into_iter().filter(|name| row(name).is_none());
            wrong.extend(missing.map(|name| format!("{}: no row for {name}", source.path)));
            continue;
        };
        let uses = row(stage).unwrap_or_default();
        let in_vocabulary = MODULES[..VOCABULARY].iter().any(|row| row.0 == stage);
        let vocabulary = if in_vocabulary { &[] } else { &MODULES[..VOCABULARY] };
        let allowed = |used: &str| {
            used == stage || uses.contains(&used) || vocabulary.iter().any(|row| row.0 == used)
        };
        for used in named_modules(&source, &tokens) {
            if !allowed(used.text) {
                let (path, line, used) = (source.path, used.line, used.text);
                wrong.push(format!("{path}:{line}: {stage} may not use {used}, only {uses:?}"));
            }
        }
    }
    wrong
}

/// What a file names of the house; the bin sees it as a crate.
fn named_modules<'a>(source: &Source<'a>, tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    if source.module != ["main"] {
        return paths_within_crate(tokens, &source.module);
    }
    let as_crate: Vec<_> = tokens
        .iter()
        .map(|&token| match token.text {
            "ringhall" => Token { text: "crate", ..token },
            _ => token,
        })
        .collect();
    paths_within_crate(&as_crate, &source.module)
}

/// Every dependency has a row in `CRATES` and a comment above it, and no row is left over.
pub fn crate_rows(tree: &Tree) -> Vec<String> {
    let Some(manifest) = tree.get("Cargo.toml") else { return Vec::new() };
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    let mut section = "";
    let mut explained = false;
    for (line, text) in manifest.lines().enumerate() {
        if text.starts_with('[') {
            section = text;
        }
        let name = text.split_once('=').map(|(name, _)| name.trim());
        if let (true, Some(name)) = (section.starts_with("[dependencies]"), name) {
            named.insert(name);
            let has_row = CRATES.iter().any(|row| row.0 == name);
            if !has_row || !explained {
                let line = line + 1;
                wrong.push(format!("Cargo.toml:{line}: {name} needs a comment, and a row here"));
            }
        } else {
            explained = text.starts_with('#');
        }
    }
    let left_over = CRATES.iter().filter(|row| !named.contains(row.0));
    wrong.extend(left_over.map(|row| format!("CRATES: {} is no dependency", row.0)));
    wrong
}

/// One home a crate; unit tests may look at the house's work through other eyes.
pub fn crate_homes(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources(tree) {
        if source.module.last() == Some(&"tests") {
            continue;
        }
        let tokens = without_unit_tests(&tokens(&source.code));
        let own = modules_elsewhere(&tokens);
        let stage = source.module.first().copied().unwrap_or("lib");
        for (at, token) in tokens.iter().enumerate() {
            let Some((name, homes)) = external(&tokens, at, &own) else { continue };
            if homes != EVERYWHERE && !homes.contains(&stage) {
                let (path, line) = (source.path, token.line);
                wrong.push(format!("{path}:{line}: {name} is at home in {homes:?}, not here"));
            }
        }
    }
    wrong
}

/// The crate that a path starts with, where it starts here; a module of the file's own hides it.
fn external(
    tokens: &[Token<'_>],
    at: usize,
    own: &[&str],
) -> Option<(&'static str, &'static [&'static str])> {
    let text = tokens[at].text;
    let &(name, homes) =
        CRATES.iter().find(|row| row.0.len() == text.len() && row.0.replace('-', "_") == text)?;
    let before = at.checked_sub(1).map_or("", |before| text_at(tokens, before));
    // `::name` is a crate only where nothing but `use`, a sign or a line stands before the colons.
    let starts = match before {
        "." => false,
        "::" => {
            let further = at.checked_sub(2).and_then(|further| tokens.get(further));
            !further
                .is_some_and(|token| token.text != "use" && (token.is_word() || token.text == ">"))
        }
        _ => true,
    };
    let used = text_at(tokens, at + 1) == "::" || before == "use";
    (starts && used && !own.contains(&text)).then_some((name, homes))
}

/// `unsafe` only where it is listed.
pub fn unsafe_homes(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources(tree) {
        let stage = source.module.first().copied().unwrap_or("lib");
        for token in tokens(&source.code) {
            if token.text == "unsafe" && !UNSAFE_HOMES.contains(&stage) {
                let (path, line) = (source.path, token.line);
                wrong.push(format!("{path}:{line}: unsafe, only in {UNSAFE_HOMES:?}"));
            }
        }
    }
    wrong
}

/// Bounds on what has to be read at once.
pub fn sizes(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{path}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
        for (line, text) in text.lines().enumerate() {
            let chars = text.chars().count();
            if chars > LINE_CHARS_MAX {
                wrong.push(format!(
                    "{path}:{}: {chars} columns, at most {LINE_CHARS_MAX}",
                    line + 1
                ));
            }
        }
    }
    for source in sources(tree) {
        for (name, lines) in functions(&tokens(&source.code)) {
            if lines > FUNCTION_LINES_MAX {
                let (path, line, name) = (source.path, name.line, name.text);
                wrong.push(format!(
                    "{path}:{line}: {name} takes {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    wrong
}

/// STYLE: each module opens with the same few lines; a file within one says at least what it does.
pub fn headers(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources(tree) {
        let header: Vec<_> =
            source.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        if header.is_empty() {
            wrong.push(format!("{}: does not open with //!", source.path));
        }
        let is_stage = source.module.len() == 1 && source.module != ["main"];
        for part in ["In:", "Out:", "Never:"] {
            let has = header.iter().any(|line| line.trim_start().starts_with(part));
            if is_stage && !has {
                wrong.push(format!("{}: its header has no line {part}", source.path));
            }
        }
    }
    wrong
}

/// No name says nothing.
pub fn names(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in tree.keys().filter(|path| path.starts_with("src/") || path.starts_with("tests/")) {
        if let Some(word) = empty_word(path) {
            wrong.push(format!("{path}: {word} is no name"));
        }
    }
    for source in sources(tree) {
        for token in declared(&tokens(&source.code)) {
            if let Some(word) = empty_word(token.text) {
                wrong.push(format!("{}:{}: {word} is no name", source.path, token.line));
            }
        }
    }
    wrong
}

/// The first empty word in `snake_case`, `CamelCase` or a path.
fn empty_word(name: &str) -> Option<&'static str> {
    let mut spaced = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            spaced.push(' ');
        }
        spaced.push(if letter.is_alphanumeric() { letter } else { ' ' });
    }
    let all_capitals = name.chars().all(|letter| !letter.is_lowercase());
    let spaced = if all_capitals { name.replace('_', " ") } else { spaced }.to_lowercase();
    let mut words = spaced.split_whitespace();
    words.find_map(|word| EMPTY_WORDS.iter().find(|empty| **empty == word).copied())
}

/// No text holds an unwanted word.
pub fn words(tree: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in tree {
        for (line, text) in text.lines().enumerate() {
            let found = UNWANTED_WORDS.iter().filter(|word| text.contains(**word));
            wrong.extend(found.map(|word| format!("{path}:{}: {word}", line + 1)));
        }
    }
    wrong
}

/// A file that no `mod` names is not compiled, and nobody would notice.
pub fn reachable(tree: &Tree) -> Vec<String> {
    let sources = sources(tree);
    let mut reached: BTreeSet<Vec<&str>> = BTreeSet::from([vec![], vec!["main"]]);
    let mut to_read: Vec<Vec<&str>> = reached.iter().cloned().collect();
    while let Some(module) = to_read.pop() {
        let Some(source) = sources.iter().find(|source| source.module == module) else { continue };
        // What the bin declares stands beside it, as what the library declares does.
        let parent = if module == ["main"] { vec![] } else { module };
        for name in modules_elsewhere(&tokens(&source.code)) {
            let declared = sources.iter().find(|source| {
                source
                    .module
                    .split_last()
                    .is_some_and(|(last, above)| *last == name && above == parent)
            });
            let child = declared.map(|source| source.module.clone());
            to_read.extend(child.filter(|child| reached.insert(child.clone())));
        }
    }
    let lost = sources.iter().filter(|source| !reached.contains(&source.module));
    lost.map(|source| format!("{}: no mod names it", source.path)).collect()
}

/// An operator finds every key in the README.
pub fn documented_keys(tree: &Tree) -> Vec<String> {
    let defaults = tree.get("src/config/default.toml");
    let (Some(defaults), Some(readme)) = (defaults, tree.get("README.md")) else {
        return Vec::new();
    };
    let mut section = String::new();
    let mut wrong = Vec::new();
    for (line, text) in defaults.lines().enumerate() {
        // A key without a default stands there as a comment.
        let text = text.trim_start_matches(['#', ' ']);
        if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = name.0.to_owned();
        }
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        let name = text.split_once('=').map(|(name, _)| name.trim()).filter(|name| is_name(name));
        if let Some(name) = name {
            let key = format!("{section}.{name}");
            if !readme.contains(&format!("`{key}`")) {
                let line = line + 1;
                wrong.push(format!("src/config/default.toml:{line}: README.md has no `{key}`"));
            }
        }
    }
    wrong
}
