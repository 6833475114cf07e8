//! Turns the first bytes of a proxy's connection into the address of the client behind it.
//!
//! In:    everything received so far, in one piece.
//! Out:   `HeaderVerdict`.
//! Never: reads behind the header; believes anything (who asks decides whom to ask).
//!
//! The PROXY protocol, version 2: "The PROXY protocol, Versions 1 & 2", Willy Tarreau, section 2.2.
//!
//! # Invariants
//! - The verdict depends on the bytes alone, not on how they were cut.
//! - `consumed <= limits::PROXY_HEADER_BYTES_MAX`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// What a header begins with: no request of any protocol does.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const VERSION_1: &[u8; 6] = b"PROXY ";
/// The part before the addresses: signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Two addresses and two ports, of IPv4.
const V4_BYTES: usize = 12;
/// Two addresses and two ports, of IPv6.
const V6_BYTES: usize = 36;
/// Two paths.
const UNIX_BYTES: usize = 216;

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderVerdict {
    /// More has to come.
    Incomplete,
    /// A header.
    Whole {
        /// The client's address; `None` where the proxy speaks for itself (LOCAL: a health check),
        /// or names none.
        source: Option<IpAddr>,
        /// Bytes of the header; what is behind them is the request.
        consumed: usize,
    },
    /// No header, and no more bytes make it one; what is wrong, for a person.
    Malformed(&'static str),
}

/// Judges what has arrived so far.
#[must_use]
pub fn read_header(bytes: &[u8]) -> HeaderVerdict {
    use HeaderVerdict::{Incomplete, Malformed, Whole};
    if !begins(bytes, SIGNATURE) {
        return match bytes.len() < VERSION_1.len() && begins(bytes, VERSION_1) {
            true => Incomplete,
            false if begins(bytes, VERSION_1) => Malformed("it begins with one of version 1"),
            false => Malformed("it begins without one"),
        };
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Incomplete };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let source = match judge(fixed[12], fixed[13], length) {
        Ok(source) => source,
        Err(why) => return Malformed(why),
    };
    let consumed = FIXED_BYTES + length;
    let Some(behind) = bytes.get(FIXED_BYTES..consumed) else { return Incomplete };
    let source = match source {
        Source::V4 => behind.first_chunk().map(|octets| Ipv4Addr::from_octets(*octets).into()),
        Source::V6 => behind.first_chunk().map(|octets| Ipv6Addr::from_octets(*octets).into()),
        Source::Unknown => None,
    };
    Whole { source: source.map(|address: IpAddr| address.to_canonical()), consumed }
}

/// Whether these may be the first bytes of something that begins with `mark`.
#[must_use]
pub fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let both = bytes.len().min(mark.len());
    bytes[..both] == mark[..both]
}

/// Where the client's address stands.
enum Source {
    V4,
    V6,
    Unknown,
}

/// Judges what stands before the addresses: version and command, family and protocol, and the
/// length of what follows.
fn judge(command: u8, family: u8, length: usize) -> Result<Source, &'static str> {
    if command >> 4 != 2 {
        return Err("its version is not 2");
    }
    if length > PROXY_HEADER_BYTES_MAX - FIXED_BYTES {
        return Err("it is longer than 4096 bytes");
    }
    match command & 0xf {
        // "The receiver must accept this connection as valid and must use the real connection
        // endpoints and discard the protocol block including the family which is ignored."
        0 => return Ok(Source::Unknown),
        1 => {}
        // "Receivers must drop connections presenting unexpected values here."
        _ => return Err("its command is neither LOCAL nor PROXY"),
    }
    let (source, least) = match (family >> 4, family & 0xf) {
        (0..=3, 3..) | (4.., _) => return Err("its address family or protocol is unknown"),
        (1, 1 | 2) => (Source::V4, V4_BYTES),
        (2, 1 | 2) => (Source::V6, V6_BYTES),
        (3, 1 | 2) => (Source::Unknown, UNIX_BYTES),
        // "When a sender presents a block with the address family UNSPEC, the receiver is free to
        // accept the connection anyway and use the real endpoint addresses".
        _ => (Source::Unknown, 0),
    };
    if length < least { Err("it is too short for its addresses") } else { Ok(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; V4_BYTES] = [192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0x1f, 0x40];

    /// A header and the request behind it.
    fn header(command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
        let length = u16::try_from(behind.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, behind, b"GET /"].concat()
    }

    /// The verdict, which has to be the same however much of the request is there already, and
    /// open until the header is whole.
    fn read(bytes: &[u8]) -> HeaderVerdict {
        let whole = read_header(bytes);
        let at =
            (0..=bytes.len()).find(|at| read_header(&bytes[..*at]) != HeaderVerdict::Incomplete);
        let Some(at) = at else { return whole };
        for len in at..=bytes.len() {
            assert_eq!(read_header(&bytes[..len]), whole, "{len}");
        }
        if let HeaderVerdict::Whole { consumed, .. } = whole {
            assert_eq!(at, consumed, "neither early nor late");
        }
        whole
    }

    fn source(bytes: &[u8]) -> Option<String> {
        match read(bytes) {
            HeaderVerdict::Whole { source, consumed } => {
                assert_eq!(&bytes[consumed..], b"GET /");
                source.map(|address| address.to_string())
            }
            verdict => panic!("{verdict:?}"),
        }
    }

    fn why(bytes: &[u8]) -> &'static str {
        match read(bytes) {
            HeaderVerdict::Malformed(why) => why,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn the_source_is_the_client() {
        assert_eq!(source(&header(0x21, 0x11, &V4)).as_deref(), Some("192.0.2.7"));
        assert_eq!(source(&header(0x21, 0x12, &V4)).as_deref(), Some("192.0.2.7"));
        let mut v6 = [0; V6_BYTES];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 7;
        assert_eq!(source(&header(0x21, 0x21, &v6)).as_deref(), Some("2001:db8::7"));
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets();
        let mapped = [&mapped[..], &[0; 20]].concat();
        assert_eq!(source(&header(0x21, 0x21, &mapped)).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn what_follows_the_addresses_is_skipped() {
        let tlv = [&V4[..], &[4, 0, 3, 1, 2, 3], &[0xee; 500]].concat();
        assert_eq!(source(&header(0x21, 0x11, &tlv)).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        assert_eq!(source(&header(0x20, 0x00, &[])), None);
        assert_eq!(source(&header(0x20, 0x11, &V4)), None);
        assert_eq!(source(&header(0x20, 0xff, &[1, 2, 3])), None);
        assert_eq!(source(&header(0x21, 0x00, &[9; 5])), None);
        assert_eq!(source(&header(0x21, 0x31, &[0; UNIX_BYTES])), None);
    }

    #[test]
    fn what_no_sender_may_send_is_malformed() {
        assert!(why(&header(0x11, 0x11, &V4)).contains("version"));
        assert!(why(&header(0x31, 0x11, &V4)).contains("version"));
        assert!(why(&header(0x22, 0x11, &V4)).contains("command"));
        for family in [0x13, 0x41, 0x03, 0xff] {
            assert!(why(&header(0x21, family, &V4)).contains("family"), "{family}");
        }
        assert!(why(&header(0x21, 0x11, &V4[..11])).contains("short"));
        assert!(why(&header(0x21, 0x21, &[0; 35])).contains("short"));
        assert!(why(&header(0x21, 0x31, &[0; 215])).contains("short"));
    }

    #[test]
    fn a_header_is_as_long_as_its_bound() {
        let longest = PROXY_HEADER_BYTES_MAX - FIXED_BYTES;
        let filled = |len: usize| header(0x21, 0x11, &[&V4[..], &vec![0; len - 12]].concat());
        assert!(source(&filled(longest)).is_some());
        assert!(why(&filled(longest + 1)).contains(&PROXY_HEADER_BYTES_MAX.to_string()));
        assert!(why(&header(0x20, 0, &vec![0; 60_000])).contains("longer"));
    }

    #[test]
    fn what_is_no_header_is_seen_at_its_first_bytes() {
        for bytes in [&b"G"[..], b"\r\n\r\nG", b"\r\n\r\n\0\r\nQUIT\r", b"\x16\x03\x01", b"POST / "]
        {
            assert_eq!(why(bytes), "it begins without one", "{bytes:?}");
        }
        assert!(why(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n").contains("version 1"));
        for bytes in [&b""[..], b"\r", b"\r\n\r\n\0\r\nQUIT", b"PROX"] {
            assert_eq!(read(bytes), HeaderVerdict::Incomplete, "{bytes:?}");
        }
    }
}
