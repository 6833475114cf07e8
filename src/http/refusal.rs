//! Turns the reasons why a request is refused into responses. The one table of refusals.
//!
//! In:    a kind, a message for a person, when to come back.
//! Out:   a whole HTTP/1.1 response; status, code and index for logs and counters.
//! Never: decides to refuse.
//!
//! # Invariants
//! - A kind's index is its place in `TABLE` and in the counters; `code` is also the metric's label.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::counters::REASONS_MAX;

macro_rules! refusals {
    ($($(#[$doc:meta])* $kind:ident: $status:literal $reason:literal, $code:literal;)+) => {
        /// Why a request is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum RefusalKind { $($(#[$doc])* $kind),+ }

        /// All kinds, in the order of their indexes.
        pub const ALL: &[RefusalKind] = &[$(RefusalKind::$kind),+];

        const TABLE: &[Row] = &[$(Row { status: $status, reason: $reason, code: $code }),+];
    };
}

struct Row {
    status: u16,
    reason: &'static str,
    code: &'static str,
}

refusals! {
    /// The request is malformed, or asks for something that cannot be.
    BadRequest: 400 "Bad Request", "bad_request";
    /// A PROXY protocol header is malformed, missing, or comes from who is not trusted.
    BadProxyHeader: 400 "Bad Request", "bad_proxy_header";
    /// The user is called `system`.
    ReservedName: 403 "Forbidden", "reserved_name";
    /// There is no such route.
    NotFound: 404 "Not Found", "not_found";
    /// `echo.enabled = false`.
    EchoDisabled: 404 "Not Found", "echo_disabled";
    /// An upgrade by another method than GET.
    MethodNotAllowed: 405 "Method Not Allowed", "method_not_allowed";
    /// The request head took longer than `handshake.timeout`.
    HandshakeTimeout: 408 "Request Timeout", "handshake_timeout";
    /// The request target is longer than `limits::TARGET_BYTES_MAX`.
    UriTooLong: 414 "URI Too Long", "uri_too_long";
    /// Not WebSocket version 13.
    UpgradeRequired: 426 "Upgrade Required", "upgrade_required";
    /// `limits.connections_per_address`.
    TooManyConnections: 429 "Too Many Requests", "too_many_connections";
    /// `handshake.head_bytes` or `limits::HEADERS_MAX`.
    HeadTooLarge: 431 "Request Header Fields Too Large", "head_too_large";
    /// `limits.connections_max`, or the table is full.
    Full: 503 "Service Unavailable", "full";
    /// `limits.memory_reserve`.
    LowMemory: 503 "Service Unavailable", "low_memory";
    /// `limits.http_connections`.
    HttpFull: 503 "Service Unavailable", "http_full";
    /// `rooms.members_max`.
    RoomFull: 503 "Service Unavailable", "room_full";
    /// `rooms.max`.
    RoomsFull: 503 "Service Unavailable", "rooms_full";
    /// Something that the request needs does not work at the moment.
    Unavailable: 503 "Service Unavailable", "unavailable";
    /// The server is on its way down.
    ShuttingDown: 503 "Service Unavailable", "shutting_down";
}

const _: () = assert!(TABLE.len() <= REASONS_MAX, "the counters have a place for each kind");

impl RefusalKind {
    /// Place in the table and in the counters, below [`REASONS_MAX`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        TABLE[self.index()].status
    }

    /// The JSON body's `error`, and the metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        TABLE[self.index()].code
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub kind: RefusalKind,
    /// What was wrong and what to do, for a person.
    pub message: Cow<'static, str>,
    /// Seconds after which to try again.
    pub retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal that trying again will not mend.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), retry_after_s: None }
    }

    /// A refusal for now: trying again after `seconds` may help. The caller adds the jitter.
    #[must_use]
    pub fn for_now(kind: RefusalKind, message: impl Into<Cow<'static, str>>, seconds: u32) -> Self {
        Self { kind, message: message.into(), retry_after_s: Some(seconds) }
    }

    /// The whole response, after which the connection is closed.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let row = &TABLE[self.kind.index()];
        let body = self.body();
        let mut out = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            row.status,
            row.reason,
            body.len()
        );
        out.push_str(match self.kind {
            // RFC 9110 section 15.5.22: "The server MUST send an Upgrade header field in a 426
            // response"; RFC 6455 section 4.4 wants the versions that it speaks.
            RefusalKind::UpgradeRequired => {
                "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
            }
            // RFC 9110 section 15.5.6: "The origin server MUST generate an Allow header field".
            RefusalKind::MethodNotAllowed => "Allow: GET\r\nConnection: close\r\n",
            _ => "Connection: close\r\n",
        });
        if let Some(seconds) = self.retry_after_s {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        out.push_str("\r\n");
        out.push_str(&body);
        out.into_bytes()
    }

    /// The response's JSON body.
    #[must_use]
    pub fn body(&self) -> String {
        let mut body = format!("{{\"error\":\"{}\",\"message\":\"", self.kind.code());
        for character in self.message.chars() {
            // RFC 8259 section 7: quotation mark, reverse solidus and the control characters
            // "MUST be escaped".
            if matches!(character, '"' | '\\') || character.is_control() {
                let _ = write!(body, "\\u{:04x}", character as u32);
            } else {
                body.push(character);
            }
        }
        body.push_str("\"}");
        body
    }
}

/// The refusal of a request that is malformed.
pub(super) fn bad_request(message: &'static str) -> Refusal {
    Refusal::new(RefusalKind::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status line, header fields and body of a response, as an independent parser reads them.
    fn parse(bytes: &[u8]) -> (u16, Vec<(String, String)>, serde_json::Value) {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(bytes).unwrap() else {
            panic!("no end of the head");
        };
        let fields: Vec<_> = response
            .headers
            .iter()
            .map(|field| (field.name.to_owned(), String::from_utf8(field.value.to_vec()).unwrap()))
            .collect();
        let body = &bytes[head..];
        assert!(fields.contains(&("Content-Length".into(), body.len().to_string())));
        (response.code.unwrap(), fields, serde_json::from_slice(body).unwrap())
    }

    fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    #[test]
    fn every_kind_is_a_whole_response_with_status_code_and_message() {
        for (index, &kind) in ALL.iter().enumerate() {
            assert_eq!(kind.index(), index);
            let (status, fields, body) = parse(&Refusal::new(kind, "Do better.").to_bytes());
            assert_eq!(status, kind.status());
            assert_eq!(body["error"], kind.code());
            assert_eq!(body["message"], "Do better.");
            assert_eq!(value(&fields, "Content-Type"), Some("application/json"));
            assert!(value(&fields, "Connection").is_some_and(|value| value.ends_with("close")));
            assert_eq!(value(&fields, "Retry-After"), None);
            assert_eq!(value(&fields, "Allow"), (status == 405).then_some("GET"));
            let version = value(&fields, "Sec-WebSocket-Version");
            assert_eq!(version, (status == 426).then_some("13"));
        }
    }

    #[test]
    fn codes_are_labels_and_no_two_kinds_share_one() {
        let mut codes: Vec<_> = ALL.iter().map(|kind| kind.code()).collect();
        let is_label = |code: &&str| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(codes.iter().all(is_label));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
    }

    #[test]
    fn a_refusal_for_now_says_when_to_come_back() {
        let refusal = Refusal::for_now(RefusalKind::Full, "The server is full.", 17);
        let (status, fields, _) = parse(&refusal.to_bytes());
        assert_eq!((status, value(&fields, "Retry-After")), (503, Some("17")));
    }

    #[test]
    fn a_message_cannot_break_out_of_its_string() {
        let message = "a\"b\\c\r\n\u{0}\u{7f}\u{85}\u{2028}\u{1f600}\"}";
        let refusal = Refusal::new(RefusalKind::BadRequest, message);
        assert_eq!(parse(&refusal.to_bytes()).2["message"], message);
    }
}
