//! What clients put on the wire and read from it, written apart from the server's code.
//!
//! In:    payloads; bytes from the server.
//! Out:   masked frames, request heads; responses and frames.
//! Never: forgives a server that breaks RFC 6455.

use fastrand::Rng;

/// Opcodes of RFC 6455 section 11.8.
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// A masked frame.
pub fn frame(random: &mut Rng, fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).expect("at most 125")),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(len).expect("two bytes").to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let mask = random.u32(..).to_ne_bytes();
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// The key of RFC 6455 section 1.3, and the answer that it asks for.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request head that asks for an upgrade.
pub fn upgrade_head(target: &str, protocol: Option<&str>, version: &str) -> Vec<u8> {
    let protocol =
        protocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    format!(
        "GET {target} HTTP/1.1\r\nHost: hall\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: {version}\r\n{protocol}\r\n"
    )
    .into_bytes()
}

/// A PROXY protocol header of version 2: of one of three clients, or of the proxy itself.
pub fn proxy_header(random: &mut Rng) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    if random.u8(0..5) == 0 {
        bytes.extend([0x20, 0, 0, 0]);
        return bytes;
    }
    bytes.extend([0x21, 0x11, 0, 12 + 3]);
    bytes.extend([192, 0, 2, random.u8(1..=3), 10, 0, 0, 9, 0x12, 0x34, 0x1f, 0x40]);
    bytes.extend([4, 0, 0]);
    bytes
}

/// A plain request.
pub const PLAIN: &[u8] = b"GET /health HTTP/1.1\r\nHost: hall\r\n\r\n";
/// What the fake plain HTTP side answers.
pub const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Something whole that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An HTTP response: its status, and the protocol that a 101 names.
    Response { status: u16, protocol: Option<String>, body: Vec<u8> },
    /// A frame.
    Frame { opcode: u8, payload: Vec<u8> },
}

/// What a client has received and not yet understood.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    upgraded: bool,
}

impl Reader {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the last thing has come whole.
    pub fn is_at_boundary(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole thing.
    pub fn next(&mut self) -> Option<Heard> {
        if self.upgraded { self.next_frame() } else { self.next_response() }
    }

    fn next_response(&mut self) -> Option<Heard> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.bytes[..end]).expect("a head is text");
        let field = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let status: u16 = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head:?}"));
        let protocol = field("Sec-WebSocket-Protocol");
        if status == 101 {
            assert!(head.contains(ACCEPT), "the accept key is missing: {head:?}");
            self.upgraded = true;
            self.bytes.drain(..end);
            return Some(Heard::Response { status, protocol, body: Vec::new() });
        }
        let len = field("Content-Length").and_then(|len| len.parse::<usize>().ok());
        let whole = end + len.expect("a response says how long it is");
        let body = self.bytes.get(end..whole)?.to_vec();
        self.bytes.drain(..whole);
        Some(Heard::Response { status, protocol, body })
    }

    fn next_frame(&mut self) -> Option<Heard> {
        let (&first, &second) = (self.bytes.first()?, self.bytes.get(1)?);
        assert_eq!(second & 0x80, 0, "RFC 6455 section 5.1: a server must not mask");
        assert_eq!(first & 0xf0, 0x80, "a server's frames are final and use no extension");
        let (len, head) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(self.bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(self.bytes.get(2..10)?.try_into().ok()?), 10),
            len => (u64::from(len), 2),
        };
        let minimal = match head {
            4 => len > 125,
            10 => len > 0xffff,
            _ => true,
        };
        assert!(minimal, "RFC 6455 section 5.2: the minimal number of bytes, not {head} for {len}");
        let end = head + usize::try_from(len).expect("a length fits the address space");
        let payload = self.bytes.get(head..end)?.to_vec();
        let opcode = first & 15;
        let known = [opcode::TEXT, opcode::BINARY, opcode::CLOSE, opcode::PING, opcode::PONG];
        assert!(known.contains(&opcode), "a frame with opcode {opcode}");
        self.bytes.drain(..end);
        Some(Heard::Frame { opcode, payload })
    }
}
