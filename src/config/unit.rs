//! Turns sizes and times as people write them into numbers, and back.
//!
//! In:    `64KiB`, `10MB`, `54s`, `500ms`.
//! Out:   bytes and durations, exactly; the shortest exact spelling of one.
//! Never: knows a key or its range.
//!
//! # Invariants
//! - What is shown parses to what was shown.

use std::time::Duration;

/// Units of a size, largest first among each kind.
const SIZES: &[(&str, usize)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of a time in microseconds, longest first.
const TIMES: &[(&str, u64)] =
    &[("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Parts `64KiB` into `64` and `KiB`.
fn parts(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'_').count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start())
}

/// Bytes of `64KiB`, `10MB`, `4096` or `4096B`; `None` for anything else and for overflow.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = parts(text);
    let number: usize = number.replace('_', "").parse().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// The shortest exact spelling in binary units: `64KiB`, `1MiB`, `1000B`.
#[must_use]
pub fn show_bytes(bytes: usize) -> String {
    let binary = SIZES.iter().take(4).find(|(_, f)| bytes != 0 && bytes.is_multiple_of(*f));
    let (unit, factor) = binary.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// The time of `54s`, `500ms`, `2m`, `1h` or `200us`; `None` for anything else, a number without
/// a unit among it, and for overflow.
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = parts(text);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let (_, factor) = TIMES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor).map(Duration::from_micros)
}

/// The shortest exact spelling, to the microsecond: `54s`, `90s`, `2m`, `500ms`.
#[must_use]
pub fn show_time(time: Duration) -> String {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0s".to_owned();
    }
    // 60 s stays `60s`: what people write for a timeout.
    let long = |unit: &str, factor: u64| unit == "m" && micros / factor < 2;
    let exact = TIMES.iter().find(|(u, f)| micros.is_multiple_of(*f) && !long(u, *f));
    let (unit, factor) = exact.copied().unwrap_or(("us", 1));
    format!("{}{unit}", micros / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("10MB"), Some(10_000_000));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("1mib"), Some(1 << 20));
        assert_eq!(parse_bytes("4_096"), Some(4096));
        assert_eq!(parse_bytes("12B"), Some(12));
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in ["", "KiB", "1K", "-1", "1.5MiB", "ten", "99999999999TiB", "1 KiB x"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(parse_time("54s"), Some(Duration::from_secs(54)));
        assert_eq!(parse_time("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_time("2m"), Some(Duration::from_mins(2)));
        assert_eq!(parse_time("1h"), Some(Duration::from_hours(1)));
        assert_eq!(parse_time("200us"), Some(Duration::from_micros(200)));
        for text in ["", "54", "s", "1.5s", "-1s", "1d", "99999999999999999h"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_parses_to_what_was_shown() {
        for bytes in [0, 1, 1000, 1024, 1536, 65_536, 1 << 20, 3 << 30, 1 << 40] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
        for micros in [0, 1, 999, 1000, 1_000_000, 60_000_000, 90_000_000, 3_600_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(parse_time(&show_time(time)), Some(time));
        }
        assert_eq!(show_bytes(64 << 10), "64KiB");
        assert_eq!(show_time(Duration::from_mins(1)), "60s");
        assert_eq!(show_time(Duration::from_mins(2)), "2m");
    }
}
