//! Turns the first bytes of a connection into a verdict on its request head.
//!
//! In:    everything received so far, in one piece; how far an earlier call came.
//! Out:   `HeadVerdict`.
//! Never: reads behind the head, or answers a request that is no upgrade.
//!
//! # Invariants
//! - The verdict depends on the bytes alone, not on how they were cut. How many bytes of a
//!   malformed head it takes to see that may depend on it, but never more than the whole head.
//! - All calls for one head together cost O(its length): the search for its end goes on where it
//!   stopped, and beyond `EAGER_BYTES` the parser runs again only when the bytes have doubled.

use std::mem::MaybeUninit;

use httparse::{Error, Request, Status};

use super::refusal::{Refusal, RefusalKind};
use super::upgrade::Upgrade;
use crate::limits;

/// Up to so many bytes the parser looks at every piece: garbage shows in its first bytes.
const EAGER_BYTES: usize = 64;

/// What an operator may set about request heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// `handshake.head_bytes`: the longest head, blank lines before it included.
    pub head_bytes: usize,
}

/// How far the earlier calls for a head came.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadProgress {
    /// Blank lines before the request line, in bytes.
    blank: usize,
    /// Bytes in which no end of a head begins.
    searched: usize,
    /// Bytes that the parser has seen.
    parsed: usize,
    /// Where the head ends.
    end: Option<usize>,
}

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadVerdict {
    /// More has to come.
    Incomplete,
    /// A proper upgrade.
    Upgrade {
        /// What is asked for.
        request: Upgrade,
        /// Bytes of the head; what is behind them are the first frames.
        consumed: usize,
    },
    /// A proper request that is no WebSocket upgrade.
    Plain,
    /// To be refused and closed.
    Refuse(Refusal),
}

/// Judges what has arrived so far.
#[must_use]
pub fn read_head(bytes: &[u8], progress: &mut HeadProgress, limits: HeadLimits) -> HeadVerdict {
    let bytes = &bytes[..bytes.len().min(limits.head_bytes)];
    let end = progress.find_end(bytes);
    progress.end = end;
    let verdict = if let Some(end) = end {
        judge(&bytes[..end])
    } else if bytes.len() == limits.head_bytes {
        judge(bytes).and_then(|_| Err(head_too_large(limits)))
    } else if bytes.len() <= EAGER_BYTES || bytes.len() >= progress.parsed * 2 {
        // What can no longer become HTTP is told so at once, not at the handshake's timeout.
        progress.parsed = bytes.len();
        judge(bytes)
    } else {
        Ok(HeadVerdict::Incomplete)
    };
    verdict.unwrap_or_else(HeadVerdict::Refuse)
}

/// The values of a field's lines, in order, in a whole head that was judged to be proper.
#[must_use]
pub fn field_values<'b>(head: &'b [u8], name: &str) -> Vec<&'b [u8]> {
    let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let mut request = Request::new(&mut []);
    if request.parse_with_uninit_headers(head, &mut headers).is_err() {
        return Vec::new();
    }
    let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value).collect()
}

impl HeadProgress {
    /// Bytes of the head, once its end has come.
    #[must_use]
    pub fn end(&self) -> Option<usize> {
        self.end
    }

    /// Where the head ends: behind the first empty line that follows something.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        // Fewer than last time where the limit was lowered meanwhile.
        self.searched = self.searched.min(bytes.len());
        if self.searched == self.blank {
            // RFC 9112 section 2.2: "a server that is expecting to receive and parse a
            // request-line SHOULD ignore at least one empty line (CRLF) received prior to the
            // request-line".
            loop {
                match &bytes[self.blank..] {
                    [b'\n', ..] => self.blank += 1,
                    [b'\r', b'\n', ..] => self.blank += 2,
                    [] | [b'\r'] => {
                        self.searched = self.blank;
                        return None;
                    }
                    // Also a carriage return alone: no blank line, but the start of a bad head.
                    _ => break,
                }
            }
            self.searched = self.blank;
        }
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let line_end = self.searched + found;
            match &bytes[line_end + 1..] {
                [b'\n', ..] => return Some(line_end + 2),
                [b'\r', b'\n', ..] => return Some(line_end + 3),
                [] | [b'\r'] => {
                    self.searched = line_end;
                    return None;
                }
                _ => self.searched = line_end + 1,
            }
        }
        self.searched = bytes.len();
        None
    }
}

/// Parses what may be a part of a head. An error in a part is the same error in the whole.
fn judge(bytes: &[u8]) -> Result<HeadVerdict, Refusal> {
    let (bytes, target_is_too_long) = cut_at_target_limit(bytes);
    let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS_MAX];
    let mut request = Request::new(&mut []);
    let status = request.parse_with_uninit_headers(bytes, &mut headers).map_err(malformed)?;
    if target_is_too_long {
        return Err(Refusal::new(
            RefusalKind::UriTooLong,
            format!("The request target is too long: {} bytes at most.", limits::TARGET_BYTES_MAX),
        ));
    }
    let Status::Complete(consumed) = status else { return Ok(HeadVerdict::Incomplete) };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Ok(HeadVerdict::Incomplete);
    };
    let headers = request.headers.iter().map(|header| (header.name, header.value));
    Ok(match Upgrade::from_parts(method, target, request.version == Some(1), headers)? {
        Some(request) => HeadVerdict::Upgrade { request, consumed },
        None => HeadVerdict::Plain,
    })
}

/// Leaves out what follows a target that is too long, so that only what came before it can be
/// wrong: the verdict is then the same wherever the input was cut.
fn cut_at_target_limit(bytes: &[u8]) -> (&[u8], bool) {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let Some(space) = memchr::memchr(b' ', &bytes[blank..]) else { return (bytes, false) };
    let target = blank + space + 1;
    let is_in_target = |byte: &&u8| **byte > b' ' && **byte != 0x7f;
    let over = limits::TARGET_BYTES_MAX + 1;
    if bytes[target..].iter().take(over).take_while(is_in_target).count() < over {
        return (bytes, false);
    }
    (&bytes[..target + over], true)
}

fn malformed(error: Error) -> Refusal {
    let message = match error {
        Error::TooManyHeaders => {
            return Refusal::new(
                RefusalKind::HeadTooLarge,
                format!("Too many header fields: {} at most.", limits::HEADERS_MAX),
            );
        }
        Error::Version => "This port speaks HTTP/1.1 (and 1.0 for plain requests).",
        Error::HeaderName => {
            "A header name holds a character that no name may hold (a space before the colon, or \
             a folded line?)."
        }
        Error::HeaderValue => "A header value holds a control character.",
        Error::NewLine => "A line does not end with CR LF.",
        Error::Token | Error::Status => {
            "This is no HTTP request: a method, a target without spaces and HTTP/1.1 come first."
        }
    };
    Refusal::new(RefusalKind::BadRequest, message)
}

fn head_too_large(limits: HeadLimits) -> Refusal {
    Refusal::new(
        RefusalKind::HeadTooLarge,
        format!("The request head is too long: less than {} bytes.", limits.head_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::upgrade::Route;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 << 10 };
    const UPGRADE: &str = "GET /ws/lobby/ada HTTP/1.1\r\n\
                           Host: localhost:8000\r\n\
                           Upgrade: websocket\r\n\
                           Connection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                           Sec-WebSocket-Version: 13\r\n\r\n";

    /// The verdict on bytes that arrive in pieces which end at `cuts`.
    fn read_cut(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> HeadVerdict {
        let mut progress = HeadProgress::default();
        for cut in cuts {
            let verdict = read_head(&bytes[..cut], &mut progress, LIMITS);
            if verdict != HeadVerdict::Incomplete {
                return verdict;
            }
        }
        read_head(bytes, &mut progress, LIMITS)
    }

    /// The verdict, which has to be the same whole, cut in two anywhere and byte by byte.
    fn read(bytes: impl AsRef<[u8]>) -> HeadVerdict {
        let bytes = bytes.as_ref();
        let whole = read_cut(bytes, []);
        // A refusal that did not wait for the end of the head is what its end would bring, too.
        let refused = matches!(whole, HeadVerdict::Refuse(_));
        let bytes = &[bytes, if refused { b"\n\n" } else { b"" }].concat();
        let step = (bytes.len() / 500).max(1);
        for cut in (0..=bytes.len()).step_by(step) {
            assert_eq!(read_cut(bytes, [cut]), whole, "cut at {cut}");
        }
        assert_eq!(read_cut(bytes, 0..bytes.len()), whole, "byte by byte");
        whole
    }

    fn status(bytes: impl AsRef<[u8]>) -> u16 {
        match read(bytes) {
            HeadVerdict::Incomplete => 0,
            HeadVerdict::Upgrade { .. } => 101,
            HeadVerdict::Plain => 200,
            HeadVerdict::Refuse(refusal) => refusal.kind.status(),
        }
    }

    #[test]
    fn frames_right_behind_the_head_are_not_consumed() {
        let bytes = [UPGRADE.as_bytes(), b"\x81\x85GET / HTTP/1.1\r\n\r\n"].concat();
        let HeadVerdict::Upgrade { request, consumed } = read(&bytes) else { panic!("no upgrade") };
        assert_eq!(consumed, UPGRADE.len());
        assert_eq!(&*request.key, "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(matches!(request.route, Route::Room { .. }));
    }

    #[test]
    fn a_fields_lines_are_found_in_any_case_and_in_order() {
        let lines = "X-Forwarded-For: a, b\r\nX: y\r\nx-forwarded-for: c\r\nUpgrade: w";
        let head = UPGRADE.replacen("Upgrade: w", lines, 1);
        let values = field_values(head.as_bytes(), "X-Forwarded-For");
        assert_eq!(values, [&b"a, b"[..], b"c"]);
        assert_eq!(field_values(UPGRADE.as_bytes(), "X-Forwarded-For"), [&b""[..]; 0]);
    }

    #[test]
    fn garbage_in_small_pieces_does_not_wait_for_the_end_of_a_head() {
        for garbage in [&b"hello\n"[..], b"\x16\x03\x01\x02", b"GET\x01", b"GET / HTTX"] {
            for cut in 0..garbage.len() {
                let verdict = read_cut(garbage, [cut]);
                assert!(matches!(verdict, HeadVerdict::Refuse(_)), "{garbage:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_head_without_its_end_is_incomplete_at_every_byte() {
        for cut in 0..UPGRADE.len() {
            assert_eq!(read_cut(&UPGRADE.as_bytes()[..cut], []), HeadVerdict::Incomplete);
        }
    }

    #[test]
    fn lines_may_end_with_a_bare_line_feed_and_blank_lines_may_come_first() {
        assert_eq!(status(UPGRADE.replace("\r\n", "\n")), 101);
        assert_eq!(status(UPGRADE.replacen("\r\n\r\n", "\n\r\n", 1)), 101);
        for blank in ["\r\n", "\n", "\r\n\r\n", "\n\n\r\n\n"] {
            assert_eq!(status([blank, UPGRADE].concat()), 101, "{blank:?}");
        }
        assert_eq!(status(["\r\r\n", UPGRADE].concat()), 400);
        // A carriage return alone is no blank line: what follows has an end that can be found.
        assert_eq!(status(["\n".repeat(80).as_str(), "\r\r"].concat()), 400);
    }

    #[test]
    fn what_is_no_upgrade_is_plain() {
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
        assert_eq!(status("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"), 200);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n"), 200);
        assert_eq!(status("GET /ws/a/b HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    }

    #[test]
    fn what_is_no_http_is_refused_with_its_first_bytes() {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        for garbage in [&hello[..], b"hello\n", b"GET\x00/", b"GET / HTTP/2", b"\x81\x85abcd"] {
            assert_eq!(status(garbage), 400, "{garbage:?}");
        }
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/0.9\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn malformed_fields_are_400_also_without_an_upgrade() {
        for field in [
            "X: a\r\n folded",
            "X : a",
            " X: a",
            "X: a\0b",
            "X\0: a",
            "X: a\rb",
            "no colon",
            ": no name",
            "X: \x01",
        ] {
            let plain = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
            assert_eq!(status(plain), 400, "{field:?}");
            let upgrade = UPGRADE.replacen("Upgrade: w", &format!("{field}\r\nUpgrade: w"), 1);
            assert_eq!(status(upgrade), 400, "{field:?}");
        }
    }

    #[test]
    fn a_head_is_as_long_as_the_limit_lets_it_be() {
        for (extra, expected) in [(0, 101), (1, 431), (5000, 431)] {
            let pad = LIMITS.head_bytes - UPGRADE.len() - "X: \r\n".len() + extra;
            let field = format!("X: {}\r\nUpgrade: w", "x".repeat(pad));
            assert_eq!(status(UPGRADE.replacen("Upgrade: w", &field, 1)), expected, "{extra}");
        }
        // The end never comes.
        assert_eq!(status(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(17 << 10))), 431);
        assert_eq!(status("\r\n".repeat(9 << 10)), 431);
        assert_eq!(status("G".repeat(17 << 10)), 431);
    }

    #[test]
    fn a_limit_that_is_lowered_meanwhile_holds_for_what_has_come() {
        let low = HeadLimits { head_bytes: 1024 };
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(3000));
        for head in [long, "\r\n".repeat(1500)] {
            let mut progress = HeadProgress::default();
            let before = read_head(head.as_bytes(), &mut progress, LIMITS);
            assert_eq!(before, HeadVerdict::Incomplete);
            match read_head(head.as_bytes(), &mut progress, low) {
                HeadVerdict::Refuse(refusal) => assert_eq!(refusal, head_too_large(low)),
                verdict => panic!("{verdict:?}"),
            }
        }
    }

    #[test]
    fn an_error_within_the_limit_comes_before_the_limit() {
        let bad = format!("GET / HTTP/1.1\r\nX : y\r\nX: {}", "x".repeat(17 << 10));
        assert_eq!(status(bad), 400);
        let bad = format!("GET / HTTP/1.1\r\nX: {}\r\nX : y\r\n\r\n", "x".repeat(17 << 10));
        assert_eq!(status(bad), 431);
    }

    #[test]
    fn a_target_that_is_too_long_is_414() {
        let target = |len: usize| format!("/{}", "a".repeat(len - 1));
        for (len, expected) in [(4095, 200), (4096, 200), (4097, 414), (9000, 414), (17 << 10, 414)]
        {
            let head = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target(len));
            assert_eq!(status(head), expected, "{len}");
        }
        assert_eq!(status(format!("GET {}", target(5000))), 414, "its end has not come");
        assert_eq!(status(format!("GET {}\x01 bad", target(5000))), 414);
        assert_eq!(status(format!("G\x01T {} HTTP/1.1", target(5000))), 400);
    }

    #[test]
    fn too_many_fields_are_431_and_nothing_worse() {
        // CVE-2024-37890: more fields than the array had places for crashed the server.
        for (count, expected) in [(99, 200), (100, 431), (1000, 431)] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
            assert_eq!(status(head), expected, "{count}");
        }
    }

    #[test]
    fn the_parser_runs_a_few_times_however_small_the_pieces_are() {
        // CVE-2023-43669: a long head parsed from the start for each read took minutes.
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(16_000));
        let mut progress = HeadProgress::default();
        let mut runs = 0;
        for len in 1..=head.len() {
            let before = progress.parsed;
            let verdict = read_head(&head.as_bytes()[..len], &mut progress, LIMITS);
            assert_eq!(verdict, HeadVerdict::Incomplete);
            runs += usize::from(progress.parsed != before);
            assert!(progress.searched + 2 >= len, "the search goes on where it stopped");
        }
        assert!(runs <= EAGER_BYTES + 8, "{runs} runs");
    }
}
