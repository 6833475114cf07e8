//! Turns bytes into a comparison of the verdicts on one PROXY protocol header, cut in several ways,
//! with what the bytes say to a reader that has all of them.

use std::net::IpAddr;

use ringhall::limits::PROXY_HEADER_BYTES_MAX;
use ringhall::proxy::{HeaderVerdict, read_header};

use super::cuts;

/// The verdict does not depend on the cuts, and names the address that stands in the header.
pub fn check(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let whole = read_header(bytes);
    for choice in [choice, 1] {
        let ends = cuts(bytes.len(), choice);
        let mut verdicts = ends.iter().map(|end| read_header(&bytes[..*end]));
        let first = verdicts.find(|verdict| *verdict != HeaderVerdict::Incomplete);
        assert_eq!(first.unwrap_or(HeaderVerdict::Incomplete), whole);
    }
    match whole {
        HeaderVerdict::Incomplete => {
            assert!(bytes.len() < PROXY_HEADER_BYTES_MAX, "waits beyond the limit");
        }
        HeaderVerdict::Whole { source, consumed } => check_whole(bytes, source, consumed),
        HeaderVerdict::Malformed(why) => assert!(!why.is_empty()),
    }
}

/// Reads a whole header once more, plainly.
fn check_whole(bytes: &[u8], source: Option<IpAddr>, consumed: usize) {
    assert!(consumed <= PROXY_HEADER_BYTES_MAX && consumed <= bytes.len());
    assert_eq!(&bytes[..12], b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(consumed, 16 + usize::from(bytes[14]) * 256 + usize::from(bytes[15]));
    let address: Option<IpAddr> = match (bytes[12], bytes[13]) {
        (0x21, 0x11 | 0x12) => <[u8; 4]>::try_from(&bytes[16..20]).ok().map(IpAddr::from),
        (0x21, 0x21 | 0x22) => <[u8; 16]>::try_from(&bytes[16..32]).ok().map(IpAddr::from),
        (0x20 | 0x21, _) => None,
        other => panic!("let in: {other:?}"),
    };
    assert_eq!(source, address.map(|address| address.to_canonical()));
    let only = read_header(&bytes[..consumed]);
    assert_eq!(only, HeaderVerdict::Whole { source, consumed }, "looked behind the header");
}
