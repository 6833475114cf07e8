//! Turns a JSON room's frames into what they say, without a parser: the server's own form alone.
//!
//! In:    the text of a frame.
//! Out:   `Event`.
//! Never: accepts another form than that which SPEC section 5 shows.

/// What stands before the content that a speaker says.
pub const BEFORE: &[u8] = b"{\"content\":\"";
/// And behind it.
pub const AFTER: &[u8] = b"\"}";

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Somebody said something.
    Said {
        /// The number of the room `rN`.
        room: usize,
        /// The number of the user `uN`.
        sender: u32,
        /// Without its quotes.
        content: &'a [u8],
        /// Its place in the room.
        offset: u64,
    },
    /// The first frame of a member.
    Joined {
        /// The room's newest offset.
        offset: u64,
    },
    /// Somebody came or went, or the server is about to go.
    Announced,
}

/// Reads a frame; `content_bytes` is the length of every content.
#[must_use]
pub fn read(text: &[u8], content_bytes: usize) -> Option<Event<'_>> {
    let Some(rest) = text.strip_prefix(b"{\"room\":\"r") else { return read_typed(text) };
    let (room, rest) = number(rest)?;
    let rest = rest.strip_prefix(b"\",\"sender\":\"")?;
    let Some(rest) = rest.strip_prefix(b"u") else {
        return rest.starts_with(b"system\"").then_some(Event::Announced);
    };
    let (sender, rest) = number(rest)?;
    let rest = rest.strip_prefix(b"\",\"content\":\"")?;
    let (content, rest) = rest.split_at_checked(content_bytes)?;
    let (offset, rest) = number(rest.strip_prefix(b"\",\"offset\":")?)?;
    let sender = u32::try_from(sender).ok()?;
    let room = usize::try_from(room).ok()?;
    (rest == b"}").then_some(Event::Said { room, sender, content, offset })
}

fn read_typed(text: &[u8]) -> Option<Event<'_>> {
    let rest = text.strip_prefix(b"{\"type\":\"")?;
    if rest.starts_with(b"members\"") || rest.starts_with(b"system\"") {
        return Some(Event::Announced);
    }
    let rest = rest.strip_prefix(b"joined\"")?;
    let at = rest.windows(9).position(|window| window == b"\"offset\":")?;
    let (offset, _) = number(&rest[at + 9..])?;
    Some(Event::Joined { offset })
}

/// The decimal number at the start, and the rest.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
    let mut value = 0_u64;
    for digit in &text[..len] {
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (len > 0).then_some((value, &text[len..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_room_says_is_read() {
        let said = b"{\"room\":\"r12\",\"sender\":\"u345\",\"content\":\"hello\",\"offset\":678}";
        let content = &b"hello"[..];
        let expected = Event::Said { room: 12, sender: 345, content, offset: 678 };
        assert_eq!(read(said, 5), Some(expected));
        assert_eq!(read(said, 4), None);
        assert_eq!(read(&said[..said.len() - 1], 5), None);
        let joined = b"{\"type\":\"joined\",\"room\":\"r1\",\"epoch\":\"e9\",\"offset\":42,\
            \"recovered\":false}";
        assert_eq!(read(joined, 5), Some(Event::Joined { offset: 42 }));
        for announced in [
            &b"{\"room\":\"r1\",\"sender\":\"system\",\"content\":\"u2 has joined the room\"}"[..],
            b"{\"type\":\"members\",\"room\":\"r1\",\"count\":3,\"joined\":4,\"left\":5}",
            b"{\"type\":\"system\",\"message\":\"Server is shutting down\"}",
        ] {
            assert_eq!(read(announced, 5), Some(Event::Announced));
        }
    }

    #[test]
    fn what_tells_of_a_loss_is_not() {
        for lost in [&b"{\"type\":\"lag\",\"room\":\"r1\",\"missed\":1,\"offset\":2}"[..], b""] {
            assert_eq!(read(lost, 5), None);
        }
        assert_eq!(read(b"{\"type\":\"error\",\"code\":\"bad_json\"}", 5), None);
    }
}
