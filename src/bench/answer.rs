//! Turns what a server answers to an upgrade into yes or why not.
//!
//! In:    the bytes received so far.
//! Out:   where the frames begin, or a `Fault` with the server's own words.
//! Never: accepts a wrong accept key.

use super::fault::{Fault, shown};

/// Longest answer that is waited for: what a refusal's page may have.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Header fields of an answer.
const HEADERS_MAX: usize = 64;

/// What is asked of the server, and what it has to answer.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// `HOST:PORT`.
    pub host: String,
    /// Subprotocol that is offered. A server that chooses none is accepted too.
    pub protocol: Option<&'static str>,
    key: String,
    accept: String,
}

impl Upgrade {
    /// With a key of this run's own.
    #[must_use]
    pub fn new(host: String, protocol: Option<&'static str>) -> Self {
        let key = crate::ws::handshake::client_key();
        let accept = crate::ws::handshake::accept_key(&key);
        Self { host, protocol, key, accept }
    }

    /// Appends the request for a path.
    pub fn put_request(&self, out: &mut Vec<u8>, path: &str) {
        let Self { host, key, .. } = self;
        for part in [
            "GET ",
            path,
            " HTTP/1.1\r\nHost: ",
            host,
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: ",
            key,
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        if let Some(protocol) = self.protocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(protocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Where the answer ends and frames begin; `None` where it is not complete.
    ///
    /// # Errors
    /// If the server refuses, or its answer is not that of a WebSocket.
    pub fn check(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let wrong = |why: &str| Fault::new(format!("no WebSocket: {why}: {}", shown(bytes)));
        let end = match response.parse(bytes) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) if bytes.len() < ANSWER_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(wrong("an endless answer")),
            Err(error) => return Err(wrong(&error.to_string())),
        };
        let field = |name: &str| {
            let found = response.headers.iter().find(|held| held.name.eq_ignore_ascii_case(name));
            found.map(|held| held.value)
        };
        match response.code {
            Some(101) => {}
            Some(code) => return refused(code, field("content-length"), &bytes[end..]),
            None => return Err(wrong("no status")),
        }
        if field("sec-websocket-accept") != Some(self.accept.as_bytes()) {
            return Err(wrong("a wrong Sec-WebSocket-Accept"));
        }
        let chosen = field("sec-websocket-protocol");
        if chosen.is_some() && chosen != self.protocol.map(str::as_bytes) {
            return Err(wrong("a subprotocol that was not offered"));
        }
        Ok(Some(end))
    }
}

/// The server says no; with its reason as soon as that is there.
fn refused(code: u16, len: Option<&[u8]>, body: &[u8]) -> Result<Option<usize>, Fault> {
    let len = len.and_then(|len| str::from_utf8(len).ok()?.trim().parse::<usize>().ok());
    if body.len() < len.unwrap_or(0).min(ANSWER_BYTES_MAX) {
        return Ok(None);
    }
    let remedy = match code {
        404 => "; does the server have this route (ringhall: `echo.enabled`)?",
        429 => "; raise `limits.connections_per_address`",
        503 => "; raise `limits.connections_max` (or the limit that it names), or use fewer",
        _ => "",
    };
    Err(Fault::new(format!("the server refused with status {code}{remedy}: {}", shown(body))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade() -> Upgrade {
        Upgrade::new("127.0.0.1:1".to_owned(), Some("ringhall.raw"))
    }

    fn accepted(upgrade: &Upgrade, protocol: Option<&str>) -> Vec<u8> {
        crate::ws::handshake::accept_response(&upgrade.key, protocol)
    }

    #[test]
    fn a_right_answer_is_accepted_with_what_follows_it() {
        let upgrade = upgrade();
        for protocol in [None, Some("ringhall.raw")] {
            let mut answer = accepted(&upgrade, protocol);
            let end = answer.len();
            answer.extend_from_slice(b"\x81\x00");
            assert_eq!(upgrade.check(&answer), Ok(Some(end)));
            for cut in 0..end {
                assert_eq!(upgrade.check(&answer[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_wrong_key_or_protocol_is_not_accepted() {
        let (one, other) = (upgrade(), upgrade());
        assert!(one.check(&accepted(&other, None)).is_err());
        assert!(one.check(&accepted(&one, Some("mqtt"))).is_err());
    }

    #[test]
    fn a_refusal_is_told_with_the_servers_reason_and_a_remedy() {
        let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(upgrade().check(head.as_bytes()), Ok(None), "the reason is on its way");
        let fault = upgrade().check(format!("{head}full").as_bytes()).unwrap_err().to_string();
        assert!(fault.contains("503") && fault.contains("full"), "{fault}");
        assert!(fault.contains("limits.connections_max"), "{fault}");
    }
}
