//! Turns close codes and reasons into judgements: which are legal, what the peer's frame said.
//!
//! In:    the payload of a close frame; what a decoder found wrong.
//! Out:   code and reason; `Violation`, which names the code to close with.
//! Never: decides when to close; `conn` does.

use tungstenite::protocol::frame::coding::CloseCode;

/// What the peer did wrong, and the close code that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// 1002, 1007 or 1009.
    pub code: u16,
    /// For logs and for the close frame's reason: at most 123 bytes.
    pub what: &'static str,
}

impl Violation {
    /// RFC 6455 section 7.4.1: 1002, the peer broke the protocol.
    #[must_use]
    pub const fn protocol(what: &'static str) -> Self {
        Self { code: 1002, what }
    }

    /// RFC 6455 section 7.4.1: 1007, text that is not UTF-8.
    #[must_use]
    pub const fn utf8(what: &'static str) -> Self {
        Self { code: 1007, what }
    }

    /// RFC 6455 section 7.4.1: 1009, a message too big to process.
    #[must_use]
    pub const fn too_big(what: &'static str) -> Self {
        Self { code: 1009, what }
    }
}

/// Whether a close frame may carry `code`.
///
/// RFC 6455 section 7.4 and the registry it founded: 1000 to 1003, 1007 to 1014, 3000 to 4999.
#[must_use]
pub fn is_legal(code: u16) -> bool {
    // 1014 (bad gateway) was registered after tungstenite's list was written.
    code == 1014 || CloseCode::from(code).is_allowed()
}

/// Reads the payload of a close frame; `None` where it is empty.
///
/// # Errors
/// 1002 for half a code or an illegal one, 1007 for a reason that is not UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        // RFC 6455 section 5.5.1: "If there is a body, the first two bytes of the body MUST be a
        // 2-byte unsigned integer".
        return match payload {
            [] => Ok(None),
            _ => Err(Violation::protocol("a close frame with half a close code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_legal(code) {
        return Err(Violation::protocol("a close code that may not be sent"));
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(Violation::utf8("a close reason that is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_codes_are_those_of_the_rfc_and_its_registry() {
        let legal = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        for code in 0..=u16::MAX {
            assert_eq!(is_legal(code), legal(code), "{code}");
        }
    }

    #[test]
    fn an_empty_payload_says_nothing() {
        assert_eq!(parse_close(b""), Ok(None));
    }

    #[test]
    fn code_and_reason_are_read() {
        assert_eq!(parse_close(b"\x03\xe8"), Ok(Some((1000, ""))));
        assert_eq!(parse_close("\u{3}\u{8}bye \u{20ac}".as_bytes()).map_err(|v| v.code), Err(1002));
        let mut payload = 4999_u16.to_be_bytes().to_vec();
        payload.extend_from_slice("bye \u{20ac}".as_bytes());
        assert_eq!(parse_close(&payload), Ok(Some((4999, "bye \u{20ac}"))));
    }

    #[test]
    fn half_a_code_an_illegal_code_and_a_bad_reason_are_refused() {
        assert_eq!(parse_close(b"\x03").map_err(|v| v.code), Err(1002));
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert_eq!(parse_close(&code.to_be_bytes()).map_err(|v| v.code), Err(1002), "{code}");
        }
        assert_eq!(parse_close(b"\x03\xe8\xff").map_err(|v| v.code), Err(1007));
        assert_eq!(parse_close(b"\x03\xe8\xe2\x82").map_err(|v| v.code), Err(1007));
    }
}
