//! Rust source as the rules of the house see it: tokens, without comments and strings.
//!
//! In:    the text of a file.
//! Out:   tokens with their lines, paths between modules, functions with their lengths.
//! Never: understands more Rust than the rules need.

/// A word or a sign, and the line it stands on (from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// An identifier, a number, `::`, or a single sign.
    pub text: &'a str,
    /// From 1.
    pub line: usize,
}

impl Token<'_> {
    /// Whether it is a name, a keyword among them.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
    }
}

/// The text with comments, strings and characters made blank; every line stays where it was.
pub fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'\'' => character_end(bytes, at),
            b'r' if !inside_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at + 1),
            _ => at + 1,
        };
        // One byte that starts nothing is code and stays.
        if end == at + 1 {
            out.push(bytes[at]);
        } else {
            let blank = bytes[at..end].iter().map(|&byte| if byte == b'\n' { byte } else { b' ' });
            out.extend(blank);
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |len| at + len)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of `'x'` or `'\u{78}'`; a lifetime is code.
fn character_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    let close = match rest.first() {
        Some(b'\\') => rest.iter().skip(2).position(|&byte| byte == b'\'').map(|len| len + 2),
        // A character takes at most four bytes, none of which is a quote.
        Some(_) => rest.iter().skip(1).take(4).position(|&byte| byte == b'\'').map(|len| len + 1),
        None => None,
    };
    let whole = close.filter(|&len| {
        let inner = std::str::from_utf8(&rest[..len]).unwrap_or_default();
        inner.starts_with('\\') || inner.chars().count() == 1
    });
    whole.map_or(at + 1, |len| at + len + 2)
}

fn inside_word(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| bytes[before]);
    // br"..." and cr"..." are raw strings too.
    before.is_some_and(|byte| byte.is_ascii_alphanumeric() && byte != b'b' && byte != b'c')
        || before == Some(b'_')
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let len = bytes[open + 1..].windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + len + close.len())
}

/// The tokens of a text that has been through [`without_comments_and_strings`].
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, line_text) in code.lines().enumerate() {
        let line = index + 1;
        let mut rest = line_text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: &rest[..len], line });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

/// The token at `at`, or an empty one: looking past the end is no error here.
pub fn text_at<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

/// Index of the brace that closes the one at `open`.
pub fn closing_brace(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// The top-level modules that a file names through `crate::` or `super::`, with the lines.
///
/// `module` is the file's own path, such as `["http", "head"]`; a glob is given as `*`.
pub fn paths_within_crate<'a>(tokens: &[Token<'a>], module: &[&'a str]) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    // Inline modules around the present token: name, and the index of the closing brace.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        inline.retain(|&(_, close)| at <= close);
        let start = at;
        at += 1;
        match tokens[start].text {
            "mod" if text_at(tokens, start + 2) == "{" => {
                inline.push((text_at(tokens, start + 1), closing_brace(tokens, start + 2)));
            }
            "crate" if text_at(tokens, at) == "::" => found.extend(firsts(tokens, at + 1)),
            "super" if text_at(tokens, at) == "::" => {
                let mut up = 1;
                while text_at(tokens, at + 1) == "super" && text_at(tokens, at + 2) == "::" {
                    (up, at) = (up + 1, at + 2);
                }
                if up >= module.len() + inline.len() {
                    found.extend(firsts(tokens, at + 1));
                }
            }
            _ => {}
        }
    }
    found
}

/// The first names of a path or of a group of paths.
fn firsts<'a>(tokens: &[Token<'a>], at: usize) -> Vec<Token<'a>> {
    if text_at(tokens, at) != "{" {
        return tokens.get(at).copied().into_iter().collect();
    }
    let mut found = Vec::new();
    let mut depth = 0;
    for pair in tokens[at..=closing_brace(tokens, at).min(tokens.len() - 1)].windows(2) {
        match pair[0].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        let starts = depth == 1 && matches!(pair[0].text, "{" | ",");
        if starts && !matches!(pair[1].text, "}" | "{") {
            found.push(pair[1]);
        }
    }
    found
}

/// Names that a file declares: functions, types, modules, constants, variables, fields.
pub fn declared<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const BEFORE: &[&str] = &[
        "fn", "struct", "enum", "union", "trait", "mod", "const", "static", "type", "let", "mut",
        "ref", "for",
    ];
    let is_declared = |&at: &usize| {
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
        tokens[at].is_word() && (BEFORE.contains(&before) || text_at(tokens, at + 1) == ":")
    };
    (0..tokens.len()).filter(is_declared).map(|at| tokens[at]).collect()
}

/// Functions with a body: name, with the line of `fn`, and how many lines it takes.
pub fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(Token<'a>, usize)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let named = tokens.get(at + 1).filter(|name| name.is_word());
        let (true, Some(&name)) = (token.text == "fn", named) else { continue };
        let mut depth = 0;
        let body = tokens.iter().enumerate().skip(at).find(|(_, token)| {
            match token.text {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(token.text, "{" | ";")
        });
        if let Some((open, Token { text: "{", .. })) = body {
            let close = closing_brace(tokens, open).min(tokens.len() - 1);
            found.push((name, tokens[close].line - token.line + 1));
        }
    }
    found
}

/// Modules that a file declares in files of their own (`mod name;`).
pub fn modules_elsewhere<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    tokens
        .windows(3)
        .filter(|three| three[0].text == "mod" && three[2].text == ";")
        .map(|three| three[1].text)
        .collect()
}

/// The tokens less those of `mod tests { ... }`.
pub fn without_unit_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let start = tokens
        .windows(3)
        .position(|three| [three[0].text, three[1].text, three[2].text] == ["mod", "tests", "{"]);
    let Some(start) = start else { return tokens.to_vec() };
    let end = closing_brace(tokens, start + 2);
    let behind = tokens.get(end + 1..).unwrap_or_default();
    [&tokens[..start], behind].concat()
}
