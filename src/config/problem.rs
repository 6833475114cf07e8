//! Turns what is wrong with a configuration into a line that names place and remedy.
//!
//! In:    where a value came from, its key, what was got and what is allowed.
//! Out:   `Problem`, one line of text for the operator.
//! Never: shows a secret.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from. Later layers win, in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// Line, from 1; 0 where the file as a whole is meant.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag of the command line, by its name (`--listen`).
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// One thing that is wrong, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// The key it is about, where it is about one.
    pub key: Option<String>,
    /// What was got, what is allowed, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.text)
    }
}

/// The candidate that `word` was probably meant to be: at most one slip, and one more for every
/// four letters.
pub(super) fn did_you_mean<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let slips = 1 + word.chars().count() / 4;
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= slips)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_place_key_and_remedy_in_one_line() {
        let origin = Origin::File { path: "ringhall.toml".into(), line: 12 };
        let text = "unknown key; did you mean client.queue_bytes?".to_owned();
        let problem = Problem { origin, key: Some("client.queue_byte".into()), text };
        let expected = "ringhall.toml:12: client.queue_byte: unknown key; \
                        did you mean client.queue_bytes?";
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let words = ["queue_bytes", "policy", "message_bytes"];
        assert_eq!(did_you_mean("queue_byte", words.into_iter()), Some("queue_bytes"));
        assert_eq!(did_you_mean("polcy", words.into_iter()), Some("policy"));
        assert_eq!(did_you_mean("colour", words.into_iter()), None);
    }
}
