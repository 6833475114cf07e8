//! Turns the first bytes of a connection into a verdict on its request head.
//!
//! In:    everything received so far, in one piece; how far an earlier call came.
//! Out:   `HeadVerdict`.
//! Never: reads behind the head, or answers a request that is no upgrade.
//!
//! # Invariants
//! - The verdict depends on the bytes alone, not on how they were cut.
//! - All calls for one head together cost O(its length): the search for its end goes on where it
//!   stopped, and the parser runs again only when the bytes have doubled.

use std::mem::MaybeUninit;

use httparse::{Error, Request, Status};

use super::refusal::{Refusal, RefusalKind};
use super::upgrade::Upgrade;
use crate::limits;

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
    let verdict = if let Some(end) = end {
        judge(&bytes[..end])
    } else if bytes.len() == limits.head_bytes {
        judge(bytes).and_then(|_| Err(head_too_large(limits)))
    } else if bytes.len() >= progress.parsed * 2 {
        // What can no longer become HTTP is told so at once, not at the handshake's timeout.
        progress.parsed = bytes.len();
        judge(bytes)
    } else {
        Ok(HeadVerdict::Incomplete)
    };
    verdict.unwrap_or_else(HeadVerdict::Refuse)
}

impl HeadProgress {
    /// Where the head ends: behind the first empty line that follows something.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.searched == self.blank {
            // RFC 9112 section 2.2: "a server that is expecting to receive and parse a
            // request-line SHOULD ignore at least one empty line (CRLF) received prior to the
            // request-line".
            let blank = bytes[self.blank..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            self.blank += blank.count();
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
