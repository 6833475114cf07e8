//! Turns one thing that was looked at into one line for a person or a machine.
//!
//! In:    what was measured, against what, and what follows.
//! Out:   `Check`.
//! Never: measures.

use std::fmt;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Could not be looked at, or says nothing here.
    Skip,
    /// As it should be.
    Pass,
    /// It works, and will not under load, or not for as many as it could.
    Warn,
    /// It does not work, or not for as many as are wanted.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Skip => "SKIP",
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name: letters, digits, `_`, and a dot before the part of a whole.
    pub id: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub measured: String,
    /// What it was held against, where there is a number.
    pub limit: Option<String>,
    /// Connections at which it breaks; `None` where it is not a matter of how many.
    pub breaks_at: Option<u64>,
    /// What breaks, or why it is right.
    pub message: String,
    /// What puts it right: a command, with the line of the systemd unit behind `#`, or lines for a
    /// file.
    pub fix: Option<String>,
}

impl Check {
    /// About something, of which nothing is known yet.
    pub(super) fn of(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            status: Status::Skip,
            measured: String::new(),
            limit: None,
            breaks_at: None,
            message: String::new(),
            fix: None,
        }
    }

    /// As it counts before a start: what only bounds how many connections there may be keeps no
    /// server down, which would hold none.
    pub(super) fn before_a_start(self) -> Self {
        match (self.status, self.breaks_at) {
            (Status::Fail, Some(1..)) => Self { status: Status::Warn, ..self },
            _ => self,
        }
    }

    pub(super) fn measured(self, measured: impl Into<String>) -> Self {
        Self { measured: measured.into(), ..self }
    }

    pub(super) fn limit(self, limit: impl Into<String>) -> Self {
        Self { limit: Some(limit.into()), ..self }
    }

    pub(super) fn breaks_at(self, connections: u64) -> Self {
        Self { breaks_at: Some(connections), ..self }
    }

    pub(super) fn skip(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    pub(super) fn pass(self, message: impl Into<String>) -> Self {
        Self { status: Status::Pass, message: message.into(), ..self }
    }

    pub(super) fn warn(self, message: impl Into<String>, fix: impl Into<String>) -> Self {
        self.judged(Status::Warn, message, fix)
    }

    pub(super) fn fail(self, message: impl Into<String>, fix: impl Into<String>) -> Self {
        self.judged(Status::Fail, message, fix)
    }

    /// With a status that was worked out; what passes needs no fix.
    pub(super) fn judged(
        self,
        status: Status,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = (status > Status::Pass).then(|| fix.into());
        Self { status, message: message.into(), fix, ..self }
    }
}

/// A number of bytes as people read it.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        let one = 1_u64 << shift;
        if number >= one {
            let tenths = u128::from(number) * 10 / u128::from(one);
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{number} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        let told: Vec<_> = [12, 65_536, 8 << 20, (3 << 29) + 1, u64::MAX].map(bytes).into();
        assert_eq!(told[..4], ["12 bytes", "64 KiB", "8 MiB", "1.5 GiB"]);
        assert!(told[4].starts_with("17179869183"), "{}", told[4]);
    }

    #[test]
    fn what_passes_carries_no_fix() {
        let check = Check::of("x").judged(Status::Pass, "well", "do this");
        assert_eq!(check.fix, None);
        assert_eq!(Check::of("x").warn("bad", "do this").fix.as_deref(), Some("do this"));
    }
}
