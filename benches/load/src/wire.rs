//! Turns requests and messages into bytes, and received bytes into frames.
//!
//! In:    paths, payloads; bytes from the server.
//! Out:   requests and masked frames; borrowed frames.
//! Never: reads or writes a socket.

/// RFC 6455 section 1.3: the key of the example, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// First bytes of whole frames.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;

/// The request that upgrades on `path`.
pub fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Where the answer to the upgrade ends; `None` while it is incomplete.
///
/// # Errors
/// Where it is no right 101.
pub fn answer(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end + 4];
    let accepted = head.windows(ACCEPT.len()).any(|part| part == ACCEPT);
    if !head.starts_with(b"HTTP/1.1 101 ") || !accepted {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(bytes)));
    }
    Ok(Some(end + 4))
}

/// Appends a masked frame, as clients send it.
pub fn put_masked(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65536 => {
            out.push(0xfe);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0xff);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// One frame, unmasked, at the start of what was received.
#[derive(Debug)]
pub struct Frame<'a> {
    pub first: u8,
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub len: usize,
}

/// The first frame, if it is complete.
pub fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, &short) = (bytes.first()?, bytes.get(1)?);
    let (start, len) = match short {
        126 => (4, usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?) as usize),
        len => (2, usize::from(len)),
    };
    Some(Frame { first, payload: bytes.get(start..start + len)?, len: start + len })
}

/// The number behind `"name":` in flat JSON of ours.
pub fn number(json: &str, name: &str) -> Option<u64> {
    let at = json.find(&format!("\"{name}\":"))? + name.len() + 3;
    let digits = json[at..].split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
