//! Turns a text message into a command.
//!
//! In:    one text message; who the connection is and where it sits.
//! Out:   `Say`, or a `Fault` for the speaker alone.
//! Never: changes a byte of the content: it is relayed as sent.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::{CONTENT_DEPTH_MAX, ERROR_BYTES_MAX};
use crate::protocol::{ErrorCode, Fault};

/// Something to be said in the connection's room.
#[derive(Debug, PartialEq, Eq)]
pub struct Say<'a> {
    /// Any JSON value, as sent.
    pub content: &'a str,
    /// The speaker's own mark, as JSON; comes back in errors.
    pub reference: Option<&'a str>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    room: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sender: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "ref", deserialize_with = "present")]
    reference: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OnlyReference<'a> {
    #[serde(borrow, default, rename = "ref", deserialize_with = "present")]
    reference: Option<&'a RawValue>,
}

/// `null` is a value here, not an absence.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads a message of a connection that is in `room` as `user`.
///
/// # Errors
/// The fault to be answered: `bad_json`, `bad_message`, `not_in_room` or `sender_mismatch`.
pub fn parse<'a>(text: &'a str, room: &str, user: &str) -> Result<Say<'a>, Fault<'a>> {
    let fields = read(text)?;
    let reference = fields.reference.map(RawValue::get);
    let fault = |code, message: &'static str| {
        Err(Fault { code, message: Cow::Borrowed(message), reference })
    };
    if let Some(kind) = fields.kind {
        return match &*kind {
            "join" | "leave" => fault(
                ErrorCode::BadMessage,
                "this connection is in the one room of its address; connect to another address \
                 to be in another room",
            ),
            _ => fault(
                ErrorCode::BadMessage,
                "unknown \"type\"; to say something send {\"content\": ...} without a type",
            ),
        };
    }
    let Some(content) = fields.content else {
        return fault(ErrorCode::BadMessage, "\"content\" is missing; send {\"content\": ...}");
    };
    if fields.room.is_some_and(|named| named != room) {
        return fault(
            ErrorCode::NotInRoom,
            "this connection is not in that room; leave \"room\" out, or connect to the room",
        );
    }
    if fields.sender.is_some_and(|named| named != user) {
        return fault(
            ErrorCode::SenderMismatch,
            "\"sender\" is not the user of this connection; leave it out",
        );
    }
    if is_too_deep(content.get()) {
        return fault(ErrorCode::BadMessage, "\"content\" is nested deeper than 128 levels");
    }
    if reference.is_some_and(is_too_deep) {
        let message = Cow::Borrowed("\"ref\" is nested deeper than 128 levels");
        return Err(Fault { code: ErrorCode::BadMessage, message, reference: None });
    }
    Ok(Say { content: content.get(), reference })
}

fn read(text: &str) -> Result<Fields<'_>, Fault<'_>> {
    // Serde would read an array as the fields in order; a message is an object.
    let is_object = text.trim_ascii_start().starts_with('{');
    let error = match serde_json::from_str::<Fields<'_>>(text) {
        Ok(fields) if is_object => return Ok(fields),
        Ok(_) => "a message is a JSON object".to_owned(),
        Err(error) => shortened(error.to_string()),
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        let message = Cow::Owned(format!("not JSON: {error}"));
        return Err(Fault { code: ErrorCode::BadJson, message, reference: None });
    }
    let reference = serde_json::from_str::<OnlyReference<'_>>(text)
        .ok()
        .filter(|_| is_object)
        .and_then(|only| only.reference)
        .map(RawValue::get)
        .filter(|reference| !is_too_deep(reference));
    let message = Cow::Owned(format!("not a message: {error}; send {{\"content\": ...}}"));
    Err(Fault { code: ErrorCode::BadMessage, message, reference })
}

/// The parser quotes what it did not expect, however long that is.
fn shortened(mut error: String) -> String {
    if error.len() > ERROR_BYTES_MAX {
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
        error.push('…');
    }
    error
}

/// Receivers parse recursively: a deep value would cost them their stack.
fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    if !json.starts_with(['[', '{']) {
        return false;
    }
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > CONTENT_DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> ErrorCode {
        parse(text, "lobby", "ann").unwrap_err().code
    }

    #[test]
    fn content_is_relayed_as_sent() {
        for content in ["1.50", "null", "\"\\ud800\"", "{ \"a\" : [1,2 ] }", "\"\\/x\"", "1e400"] {
            let text = format!(" {{\"content\": {content} , \"ref\":7}} ");
            let say = parse(&text, "lobby", "ann").unwrap();
            assert_eq!((say.content, say.reference), (content, Some("7")));
        }
    }

    #[test]
    fn own_room_and_sender_may_be_named_in_any_spelling() {
        let text = r#"{"room":"l\u006fbby","sender":"ann","content":1,"extra":{}}"#;
        assert!(parse(text, "lobby", "ann").is_ok());
    }

    #[test]
    fn every_fault_has_its_code() {
        assert_eq!(code("nonsense"), ErrorCode::BadJson);
        assert_eq!(code(""), ErrorCode::BadJson);
        assert_eq!(code("{\"content\":1}x"), ErrorCode::BadJson);
        assert_eq!(code("[1,"), ErrorCode::BadJson);
        assert_eq!(code("{\"content\":01}"), ErrorCode::BadJson);
        assert_eq!(code("[1,null,null,null,null]"), ErrorCode::BadMessage);
        assert_eq!(code("\"hello\""), ErrorCode::BadMessage);
        assert_eq!(code("{}"), ErrorCode::BadMessage);
        assert_eq!(code("{\"content\":1,\"content\":2}"), ErrorCode::BadMessage);
        assert_eq!(code("{\"content\":1,\"room\":5}"), ErrorCode::BadMessage);
        assert_eq!(code("{\"type\":\"join\",\"room\":\"x\"}"), ErrorCode::BadMessage);
        assert_eq!(code("{\"content\":1,\"room\":\"x\"}"), ErrorCode::NotInRoom);
        assert_eq!(code("{\"content\":1,\"sender\":\"bob\"}"), ErrorCode::SenderMismatch);
    }

    #[test]
    fn the_reference_comes_back_whatever_was_wrong() {
        for text in ["{\"ref\":[1]}", "{\"content\":1,\"room\":5,\"ref\":[1]}"] {
            assert_eq!(parse(text, "lobby", "ann").unwrap_err().reference, Some("[1]"));
        }
    }

    #[test]
    fn neither_a_deep_reference_nor_a_long_error_comes_back() {
        let deep = format!("{{\"content\":1,\"ref\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let fault = parse(&deep, "lobby", "ann").unwrap_err();
        assert_eq!((fault.code, fault.reference), (ErrorCode::BadMessage, None));
        let long = format!("\"{}\"", "ü".repeat(30_000));
        assert!(parse(&long, "lobby", "ann").unwrap_err().message.len() < 400);
    }

    #[test]
    fn nesting_is_bounded_outside_of_strings() {
        let nest =
            |levels: usize| format!("{{\"content\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nest(CONTENT_DEPTH_MAX), "lobby", "ann").is_ok());
        assert_eq!(code(&nest(CONTENT_DEPTH_MAX + 1)), ErrorCode::BadMessage);
        let text = format!("{{\"content\":[\"{}\\\"[\"]}}", "[".repeat(500));
        assert!(parse(&text, "lobby", "ann").is_ok());
    }
}
