//! RFC 6455 frames as a test sees them: nothing checked, nothing hidden.
//!
//! Written apart from the server's code on purpose: two readings of the RFC have to agree.

use std::fmt;

use serde_json::Value;

/// Opcodes of RFC 6455 section 11.8.
pub mod opcode {
    /// Another fragment of the message before it.
    pub const CONTINUATION: u8 = 0;
    /// UTF-8.
    pub const TEXT: u8 = 1;
    /// Bytes.
    pub const BINARY: u8 = 2;
    /// The end.
    pub const CLOSE: u8 = 8;
    /// Asks for a pong.
    pub const PING: u8 = 9;
    /// Answers a ping.
    pub const PONG: u8 = 10;
}

/// Bytes of a payload that a failing test shows.
const SHOWN_BYTES: usize = 64;

/// A frame that the server sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// The three reserved bits.
    pub rsv: u8,
    /// See [`opcode`].
    pub opcode: u8,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fin, rsv, opcode, payload } = self;
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(SHOWN_BYTES)]);
        let len = payload.len();
        write!(f, "Frame(fin {fin}, rsv {rsv}, opcode {opcode}, {len} bytes: {shown:?})")
    }
}

impl Frame {
    /// A whole frame.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, payload: payload.into() }
    }

    /// The payload as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        assert_eq!(self.opcode, opcode::TEXT, "a text frame, not {self:?}");
        std::str::from_utf8(&self.payload).expect("text frames are UTF-8")
    }

    /// The payload as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Code and reason of a close frame; 1005 stands for none, as in RFC 6455 section 7.1.5.
    #[track_caller]
    pub fn close_code(&self) -> (u16, String) {
        assert_eq!(self.opcode, opcode::CLOSE, "a close frame, not {self:?}");
        match self.payload.as_slice() {
            [] => (1005, String::new()),
            [one] => panic!("a close frame with a single byte: {one}"),
            [high, low, reason @ ..] => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                (u16::from_be_bytes([*high, *low]), reason)
            }
        }
    }
}

/// Encodes a frame with the shortest length; whatever the arguments say, right or wrong.
pub fn encode(fin: bool, rsv: u8, opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    bytes.push(u8::from(fin) << 7 | (rsv & 7) << 4 | opcode & 15);
    let mask_bit = u8::from(masked) << 7;
    match payload.len() {
        len @ 0..=125 => bytes.push(mask_bit | len as u8),
        len @ 126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masked {
        let key = fastrand::u32(..).to_ne_bytes();
        bytes.extend_from_slice(&key);
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// Decodes the first frame and gives its length on the wire; `None` where it is not complete.
pub fn decode(buffer: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (buffer.first()?, buffer.get(1)?);
    assert_eq!(second & 0x80, 0, "RFC 6455 section 5.1: a server must not mask");
    let (len, head) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?), 10),
        len => (u64::from(len), 2),
    };
    let minimal = match head {
        4 => len > 125,
        10 => len > 0xffff,
        _ => true,
    };
    assert!(minimal, "RFC 6455 section 5.2: the minimal number of bytes, not {head} for {len}");
    let end = head + usize::try_from(len).expect("a length fits the address space");
    let payload = buffer.get(head..end)?.to_vec();
    Some((Frame { fin: first & 0x80 != 0, rsv: first >> 4 & 7, opcode: first & 15, payload }, end))
}
