//! Turns what a room or the server has to say into frames.
//!
//! In:    names, content that is already JSON, numbers.
//! Out:   one whole text frame each, appended to a buffer.
//! Never: decides who gets it.
//!
//! # Cost
//! - A message of plain names is one pass of copies; the frame's length is known beforehand.

use std::borrow::Cow;

use serde_json::ser::to_writer;

use crate::protocol::Fault;
use crate::ws::encode::put_header;
use crate::ws::frame::Opcode;

/// Who came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// A user joined.
    Joined,
    /// A user left.
    Left,
}

/// `{"room":R,"sender":U,"content":C,"offset":N}`; `content` is JSON, and UTF-8.
pub fn put_said(out: &mut Vec<u8>, room: &str, sender: &str, content: &[u8], offset: u64) {
    let (room, sender) = (escaped(room), escaped(sender));
    let mut digits = [0u8; 20];
    let offset = decimal(offset, &mut digits);
    let parts: [&[u8]; 9] = [
        b"{\"room\":\"",
        &room,
        b"\",\"sender\":\"",
        &sender,
        b"\",\"content\":",
        content,
        b",\"offset\":",
        offset,
        b"}",
    ];
    put_parts(out, &parts);
}

/// `{"room":R,"sender":"system","content":"U has joined the room"}`, or left.
pub fn put_announcement(out: &mut Vec<u8>, room: &str, user: &str, crossing: Crossing) {
    let what = match crossing {
        Crossing::Joined => "joined",
        Crossing::Left => "left",
    };
    let (room, user) = (escaped(room), escaped(user));
    let what = format!(" has {what} the room\"}}");
    let sender: &[u8] = b"\",\"sender\":\"system\",\"content\":\"";
    put_parts(out, &[b"{\"room\":\"", &room, sender, &user, what.as_bytes()]);
}

/// `{"type":"members","room":R,"count":N,"joined":J,"left":L}`.
pub fn put_summary(out: &mut Vec<u8>, room: &str, count: usize, joined: u64, left: u64) {
    let room = escaped(room);
    let numbers = format!("\",\"count\":{count},\"joined\":{joined},\"left\":{left}}}");
    put_parts(out, &[b"{\"type\":\"members\",\"room\":\"", &room, numbers.as_bytes()]);
}

/// `{"type":"joined","room":R,"epoch":E,"offset":N,"recovered":false}`.
pub fn put_joined(out: &mut Vec<u8>, room: &str, epoch: &str, offset: u64) {
    let room = escaped(room);
    let rest = format!("\",\"epoch\":\"{epoch}\",\"offset\":{offset},\"recovered\":false}}");
    put_parts(out, &[b"{\"type\":\"joined\",\"room\":\"", &room, rest.as_bytes()]);
}

/// `{"type":"lag","room":R,"missed":K,"offset":N}`.
pub fn put_lag(out: &mut Vec<u8>, room: &str, missed: u64, offset: u64) {
    let room = escaped(room);
    let rest = format!("\",\"missed\":{missed},\"offset\":{offset}}}");
    put_parts(out, &[b"{\"type\":\"lag\",\"room\":\"", &room, rest.as_bytes()]);
}

/// `{"type":"error","code":S,"message":T,"ref"?:X}`.
pub fn put_error(out: &mut Vec<u8>, fault: &Fault<'_>) {
    let message = escaped(&fault.message);
    let code = fault.code.as_str().as_bytes();
    let (head, middle): (&[u8], &[u8]) = (b"{\"type\":\"error\",\"code\":\"", b"\",\"message\":\"");
    match fault.reference {
        Some(reference) => put_parts(
            out,
            &[head, code, middle, &message, b"\",\"ref\":", reference.as_bytes(), b"}"],
        ),
        None => put_parts(out, &[head, code, middle, &message, b"\"}"]),
    }
}

/// `{"type":"system","message":T}`.
pub fn put_system(out: &mut Vec<u8>, message: &str) {
    put_parts(out, &[b"{\"type\":\"system\",\"message\":\"", &escaped(message), b"\"}"]);
}

fn put_parts(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum();
    out.reserve(len + 10);
    put_header(out, Opcode::Text, len);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A string as it stands between JSON's quotes: nearly always the string itself.
fn escaped(text: &str) -> Cow<'_, [u8]> {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut quoted = Vec::with_capacity(text.len() + 16);
    to_writer(&mut quoted, text).expect("a string is always JSON, a Vec takes all bytes");
    quoted.pop();
    quoted.remove(0);
    Cow::Owned(quoted)
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(frame: &[u8]) -> Value {
        let start = match frame[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        serde_json::from_slice(&frame[start..]).unwrap()
    }

    #[test]
    fn a_message_keeps_its_names_and_its_content() {
        for (room, sender) in
            [("lobby", "ann"), ("a\"b\\\u{7f}ü", "\u{1F600}"), (&"x".repeat(128), "u")]
        {
            for offset in [1, 9, 10, 9_007_199_254_740_991] {
                let mut out = Vec::new();
                put_said(&mut out, room, sender, b"[1.50]", offset);
                assert_eq!(
                    read(&out),
                    json!({"room": room, "sender": sender, "content": [1.5], "offset": offset})
                );
            }
        }
    }

    #[test]
    fn the_servers_own_words_are_json() {
        let mut out = Vec::new();
        put_announcement(&mut out, "r", "\"a\"", Crossing::Left);
        let text = "\"a\" has left the room";
        assert_eq!(read(&out), json!({"room": "r", "sender": "system", "content": text}));
        out.clear();
        put_summary(&mut out, "r", 300, 2, 1);
        let wanted = json!({"type": "members", "room": "r", "count": 300, "joined": 2, "left": 1});
        assert_eq!(read(&out), wanted);
        out.clear();
        put_lag(&mut out, "r", 5, 9);
        assert_eq!(read(&out), json!({"type": "lag", "room": "r", "missed": 5, "offset": 9}));
        out.clear();
        put_system(&mut out, "bye");
        assert_eq!(read(&out), json!({"type": "system", "message": "bye"}));
    }
}
