//! Violations planted on purpose: each rule sees its own, and none that is not there.

use super::source::{tokens, without_comments_and_strings};
use super::{Tree, is_text, rules};

fn tree(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect()
}

/// What a rule finds in one file.
fn found(rule: fn(&Tree) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
    rule(&tree(&[(path, text)]))
}

#[test]
fn comments_strings_and_characters_are_blank_and_lifetimes_are_not() {
    let text = r##"a // crate::b
/* crate::c /* deep */ still */ d "crate::e \" f" g r#"crate::h " "# 'i' '\'' b"j" &'k l"##;
    let code = without_comments_and_strings(text);
    let words: Vec<_> =
        tokens(&code).iter().filter(|token| token.is_word()).map(|token| token.text).collect();
    assert_eq!(words, ["a", "d", "g", "b", "k", "l"]);
    assert_eq!(code.len(), text.len());
    assert_eq!(tokens(&code).last().map(|token| token.line), Some(2));
}

#[test]
fn an_import_that_no_row_allows_is_found_however_it_is_written() {
    for text in [
        "use crate::room::Room;",
        "use crate::{id::ConnId, room::{Room, shard}};",
        "use crate::{\n    id, room,\n};",
        "fn f() -> crate::room::Room { todo() }",
        "use super::super::room::Room;",
        "mod tests { use super::super::super::room; }",
        "use $crate::room;",
    ] {
        let wrong = found(rules::imports, "src/http/head.rs", text);
        assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
        assert!(wrong[0].contains("http may not use room"), "{wrong:?}");
    }
    for text in [
        "use crate::{id::{ConnId, room}, limits};",
        "use crate::http::target;",
        "use super::room;",
        "mod tests { use super::super::room; }",
        "// crate::room\nconst A: &str = \"crate::room\";",
        "pub(crate) fn room() {}",
    ] {
        assert_eq!(found(rules::imports, "src/http/head.rs", text), [""; 0], "{text}");
    }
    assert_eq!(found(rules::imports, "src/fanout.rs", "use super::shard;").len(), 1);
    assert_eq!(found(rules::imports, "src/fanout.rs", "use crate::conn;"), [""; 0]);
    assert_eq!(found(rules::imports, "src/time.rs", "use crate::limits;").len(), 1);
    assert_eq!(found(rules::imports, "src/http/mod.rs", "use crate::*;").len(), 1);
    assert_eq!(found(rules::imports, "src/main.rs", "ringhall::server::run()").len(), 1);
    assert_eq!(found(rules::imports, "src/lib.rs", "pub mod id;\npub mod attic;").len(), 1);
}

#[test]
fn a_crate_away_from_home_is_found() {
    for text in ["use libc::c_int;", "use libc;", "let a = libc::AF_INET;", "use ::libc::c_int;"] {
        assert_eq!(found(rules::crate_homes, "src/shard/turn.rs", text).len(), 1, "{text}");
        assert_eq!(found(rules::crate_homes, "src/uring/ring.rs", text), [""; 0], "{text}");
    }
    for text in ["mod headers;\nuse headers::Host;", "self.libc::<u8>()", "use crate::bytes::A;"] {
        assert_eq!(found(rules::crate_homes, "src/shard/mod.rs", text), [""; 0], "{text}");
    }
    let manifest =
        "[dependencies]\n# Why.\nlibc = \"1\"\nserde = \"1\"\n# Why.\nleft-pad = \"1\"\n";
    let wrong = found(rules::crate_rows, "Cargo.toml", manifest);
    assert!(wrong.iter().any(|line| line.contains("left-pad")), "no row: {wrong:?}");
    assert!(wrong.iter().any(|line| line.contains("axum is no dependency")), "{wrong:?}");
    assert!(!wrong.iter().any(|line| line.contains("libc")), "{wrong:?}");
}

#[test]
fn unsafe_elsewhere_is_found() {
    assert_eq!(found(rules::unsafe_homes, "src/host.rs", "unsafe { f() }").len(), 1);
    assert_eq!(found(rules::unsafe_homes, "src/uring/ring.rs", "unsafe { f() }"), [""; 0]);
    assert_eq!(found(rules::unsafe_homes, "src/host.rs", "// unsafe\nlet unsafety = 1;"), [""; 0]);
}

#[test]
fn what_is_too_long_is_found() {
    let function =
        |lines: usize| format!("fn long<T: [u8; 4]>() {{\n{}}}\n", "a();\n".repeat(lines - 2));
    assert_eq!(found(rules::sizes, "src/a.rs", &function(70)), [""; 0]);
    assert_eq!(found(rules::sizes, "src/a.rs", &function(71)).len(), 1);
    assert_eq!(found(rules::sizes, "src/a.rs", &"a\n".repeat(600)), [""; 0]);
    assert_eq!(found(rules::sizes, "src/a.rs", &"a\n".repeat(601)).len(), 1);
    assert_eq!(found(rules::sizes, "src/a.rs", &"ä".repeat(100)), [""; 0]);
    assert_eq!(found(rules::sizes, "src/a.rs", &"ä".repeat(101)).len(), 1);
}

#[test]
fn a_module_without_its_header_is_found() {
    let header = "//! Does.\n//!\n//! In:    a.\n//! Out:   b.\n//! Never: c.\n";
    assert_eq!(found(rules::headers, "src/a/mod.rs", header), [""; 0]);
    assert_eq!(found(rules::headers, "src/a.rs", &header.replace("Never", "Ever")).len(), 1);
    assert_eq!(found(rules::headers, "src/a/b.rs", "//! Does.\n"), [""; 0]);
    assert_eq!(found(rules::headers, "src/a/b.rs", "fn f() {}\n").len(), 1);
}

#[test]
fn an_empty_name_is_found() {
    let empty = ["ut", "il"].concat();
    for text in [
        format!("fn parse_{empty}() {{}}"),
        format!("struct Parse{}{};", empty[..1].to_uppercase(), &empty[1..]),
        format!("const {}: u8 = 1;", empty.to_uppercase()),
        format!("struct A {{ {empty}: u8 }}"),
    ] {
        assert_eq!(found(rules::names, "src/a.rs", &text).len(), 1, "{text}");
    }
    assert_eq!(found(rules::names, &format!("src/{empty}.rs"), "").len(), 1);
    let text = format!("use hyper_{empty}::rt; use tower::{empty}::ServiceExt; let futile = 1;");
    assert_eq!(found(rules::names, "src/a.rs", &text), [""; 0]);
}

#[test]
fn an_unwanted_word_is_found_in_any_text() {
    for word in super::UNWANTED_WORDS {
        let text = format!("fine\nsay {word} here\n");
        assert_eq!(found(rules::words, "README.md", &text).len(), 1, "{word}");
    }
    assert!(is_text("turn.rs") && is_text("run") && is_text("README.md"));
    assert!(!is_text("Cargo.lock") && !is_text("package-lock.json") && !is_text("LICENSE"));
}

#[test]
fn a_file_that_no_mod_names_is_found() {
    let mut files = vec![
        ("src/lib.rs", "pub mod a;"),
        ("src/main.rs", "fn main() {}"),
        ("src/a/mod.rs", "mod b;"),
        ("src/a/b.rs", "// mod c;"),
    ];
    assert_eq!(rules::reachable(&tree(&files)), [""; 0]);
    files.push(("src/a/c.rs", ""));
    files.push(("src/b.rs", ""));
    assert_eq!(rules::reachable(&tree(&files)).len(), 2);
}

#[test]
fn a_key_that_the_readme_leaves_out_is_found() {
    let defaults = "# What a = 1 means.\n[log]\nlevel = \"info\"\n# format = \"text\"\n";
    let readme = "| `log.level` | info |";
    let files = [("src/config/default.toml", defaults), ("README.md", readme)];
    let wrong = rules::documented_keys(&tree(&files));
    assert_eq!(wrong, ["src/config/default.toml:4: README.md has no `log.format`"]);
}
