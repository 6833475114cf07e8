//! Turns who measured where and when into the lines at the head of a file.
//!
//! In:    the command, the box, the clock.
//! Out:   comments.
//! Never: measures.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::probe::Fingerprint;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Where a file comes from.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// As it was called: `ringhall tune --quick`.
    pub command: String,
    /// The box.
    pub fingerprint: Fingerprint,
    /// Seconds since 1970, UTC.
    pub seconds: u64,
}

impl Provenance {
    /// Of this moment on this box.
    #[must_use]
    pub fn now(command: String) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        Self { command, fingerprint: Fingerprint::read(), seconds }
    }

    /// The moment, as RFC 3339 writes it.
    #[must_use]
    pub fn date(&self) -> String {
        date(self.seconds)
    }

    /// The head of a file whose comments begin with `#`; `what` says what the file is.
    #[must_use]
    pub fn header(&self, what: &str) -> String {
        let Self { command, fingerprint, .. } = self;
        let (version, date) = (&fingerprint.version, self.date());
        format!(
            "# {what}\n# Written by `{command}` (Ringhall {version}), {date}\n# Measured on \
             {fingerprint}\n# `ringhall tune revert` takes it back; an edit makes it yours.\n"
        )
    }
}

/// The proleptic Gregorian calendar, from days since 1970 (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", civil_from_days).
fn date(seconds: u64) -> String {
    let days = seconds / DAY + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March: February, which has the odd day, is the last.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds % DAY / HOUR, seconds % HOUR / MINUTE);
    let second = seconds % MINUTE;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00Z", "2100 has no leap day");
    }

    #[test]
    fn a_head_is_nothing_but_comments() {
        let head = Provenance::now("ringhall tune --quick".to_owned()).header("What changed.");
        assert!(head.lines().all(|line| line.starts_with("# ")), "{head}");
        assert!(head.contains("ringhall tune --quick") && head.contains("Linux"), "{head}");
    }
}
