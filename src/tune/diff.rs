//! Turns two texts into the lines that differ.
//!
//! In:    an old text and a new one.
//! Out:   lines, `-` those that go and `+` those that come; nothing of what stays.
//! Never: shows more than a person reads.

/// Lines that are compared one by one: what is longer is only counted.
const LINES_MOST: usize = 500;

/// What differs.
#[must_use]
pub fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    if old.len().max(new.len()) > LINES_MOST {
        return format!("  {} lines become {}\n", old.len(), new.len());
    }
    let shared = lengths(&old, &new);
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && shared[i + 1][j] >= shared[i][j + 1]) {
            text.push_str(&format!("- {}\n", old[i]));
            i += 1;
        } else {
            text.push_str(&format!("+ {}\n", new[j]));
            j += 1;
        }
    }
    text
}

/// Length of the longest shared subsequence of what begins at each pair of lines.
fn lengths(old: &[&str], new: &[&str]) -> Vec<Vec<u32>> {
    let mut shared = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            shared[i][j] = match old[i] == new[j] {
                true => shared[i + 1][j + 1] + 1,
                false => shared[i + 1][j].max(shared[i][j + 1]),
            };
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(diff("a\nb\nc\n", "a\nx\nc\nd\n"), "- b\n+ x\n+ d\n");
        assert_eq!(diff("a\n", "a\n"), "");
        assert_eq!(diff("", "a\nb\n"), "+ a\n+ b\n");
    }

    #[test]
    fn what_nobody_reads_is_counted() {
        let long = "x\n".repeat(LINES_MOST + 1);
        assert_eq!(diff("a\n", &long), "  1 lines become 501\n");
    }
}
