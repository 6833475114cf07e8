//! Turns header fields into what an upgrade needs to know of them, in one pass.
//!
//! In:    header fields, names in any case.
//! Out:   `Fields`; the refusals that follow from them alone.
//! Never: copies a value, looks at the target.

use super::refusal::{Refusal, RefusalKind, bad_request};

/// A subprotocol of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// JSON envelopes; also what no subprotocol means.
    Json,
    /// Payloads byte for byte.
    Raw,
}

impl Protocol {
    /// As it stands in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "ringhall.json",
            Self::Raw => "ringhall.raw",
        }
    }

    /// The subprotocol of that name. Case counts.
    #[must_use]
    pub fn from_token(token: &[u8]) -> Option<Self> {
        [Self::Json, Self::Raw].into_iter().find(|known| known.as_str().as_bytes() == token)
    }
}

/// What the header fields of one request say.
#[derive(Debug, Default)]
pub(super) struct Fields<'h> {
    hosts: usize,
    host_is_valid: bool,
    lengths: usize,
    length_is_valid: bool,
    announces_body: bool,
    is_chunked: bool,
    /// `Upgrade` names `websocket`.
    pub(super) asks_for_websocket: bool,
    connection_is_upgrade: bool,
    versions: usize,
    version_is_13: bool,
    keys: usize,
    key: &'h [u8],
    protocols_are_valid: bool,
    /// The client's first choice among those that this server knows.
    pub(super) protocol: Option<Protocol>,
}

impl<'h> Fields<'h> {
    /// Reads all fields.
    pub(super) fn gather(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Self {
        let mut fields = Self { protocols_are_valid: true, ..Self::default() };
        for (name, value) in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("host") {
                fields.hosts += 1;
                fields.host_is_valid = is_host(value);
            } else if is("content-length") {
                fields.lengths += 1;
                fields.length_is_valid = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                fields.announces_body |= value.iter().any(|digit| *digit != b'0');
            } else if is("transfer-encoding") {
                fields.is_chunked = true;
                fields.announces_body = true;
            } else if is("upgrade") {
                fields.asks_for_websocket |= has_token(value, "websocket");
            } else if is("connection") {
                fields.connection_is_upgrade |= has_token(value, "upgrade");
            } else if is("sec-websocket-version") {
                fields.versions += 1;
                fields.version_is_13 = value == b"13";
            } else if is("sec-websocket-key") {
                fields.keys += 1;
                fields.key = value;
            } else if is("sec-websocket-protocol") {
                fields.gather_protocols(value);
            }
        }
        fields
    }

    fn gather_protocols(&mut self, value: &[u8]) {
        let mut offers = elements(value).peekable();
        self.protocols_are_valid &= offers.peek().is_some();
        for offer in offers {
            self.protocols_are_valid &= offer.iter().copied().all(is_token_byte);
            self.protocol = self.protocol.or_else(|| Protocol::from_token(offer));
        }
    }

    /// What no request may do, upgrade or not: what two parsers might read differently.
    pub(super) fn check_framing(&self, version_is_11: bool) -> Result<(), Refusal> {
        // RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
        // HTTP/1.1 request message that lacks a Host header field and to any request message that
        // contains more than one Host header field line or a Host header field with an invalid
        // field value."
        if self.hosts == 0 && version_is_11 {
            return Err(bad_request("The Host header field is missing."));
        }
        if self.hosts > 1 || (self.hosts == 1 && !self.host_is_valid) {
            return Err(bad_request("Send one Host header field: a host, perhaps with a port."));
        }
        if self.lengths > 1 || (self.lengths == 1 && !self.length_is_valid) {
            return Err(bad_request("Send one Content-Length at most, and only digits in it."));
        }
        // RFC 9112 section 6.1: "A server MAY reject a request that contains both Content-Length
        // and Transfer-Encoding"; the shape of request smuggling.
        if self.lengths > 0 && self.is_chunked {
            return Err(bad_request("Content-Length and Transfer-Encoding exclude each other."));
        }
        if self.is_chunked && !version_is_11 {
            return Err(bad_request("HTTP/1.0 has no Transfer-Encoding."));
        }
        Ok(())
    }

    /// What RFC 6455 section 4.2.1 asks of an upgrade; the key, if all is well.
    pub(super) fn check_handshake(&self) -> Result<&'h str, Refusal> {
        if self.announces_body {
            return Err(bad_request("A request that opens a WebSocket has no body."));
        }
        if !self.connection_is_upgrade {
            return Err(bad_request("Send 'Connection: Upgrade' (a proxy may have dropped it)."));
        }
        // RFC 6455 section 4.4: the server answers a version that it does not speak with those
        // that it does.
        if self.versions != 1 || !self.version_is_13 {
            return Err(Refusal::new(
                RefusalKind::UpgradeRequired,
                "This server speaks WebSocket version 13: send 'Sec-WebSocket-Version: 13'.",
            ));
        }
        if !self.protocols_are_valid {
            return Err(bad_request("Sec-WebSocket-Protocol is a list of names."));
        }
        match key(self.key).filter(|_| self.keys == 1) {
            Some(key) => Ok(key),
            None => Err(bad_request(
                "Send one Sec-WebSocket-Key: 16 random bytes in base64, 24 characters.",
            )),
        }
    }
}

/// RFC 6455 section 4.1: "a nonce consisting of a randomly selected 16-byte value that has been
/// base64-encoded", which is 22 characters and `==`.
fn key(value: &[u8]) -> Option<&str> {
    let digits = value.strip_suffix(b"==").filter(|digits| digits.len() == 22)?;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    if !digits.iter().all(is_base64) {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// The elements of a comma list. RFC 9110 section 5.6.1.2: "A recipient MUST parse and ignore a
/// reasonable number of empty list elements".
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(|element| element.trim_ascii())
        .filter(|element| !element.is_empty())
}

fn has_token(value: &[u8], token: &str) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// RFC 9110 section 5.6.2: what a token is made of.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 3986 section 3.2.2: what a host and a port are made of; an empty one is allowed.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte))
}
