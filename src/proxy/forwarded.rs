//! Turns `X-Forwarded-For` into the address of the client.
//!
//! In:    the peer; the values of the header's lines; who is trusted.
//! Out:   an address.
//! Never: reads further to the left than trust goes: there the client itself may have written.

use std::net::{IpAddr, SocketAddr};

/// Walks from the peer towards the client as long as the one who wrote an address is trusted. What
/// is no address ends the walk at the last one that was.
pub(super) fn client<'h>(
    peer: IpAddr,
    fields: impl DoubleEndedIterator<Item = &'h [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    // Each proxy appends the address that it was connected from: the last one is the nearest.
    let elements = fields.rev().flat_map(|field| field.split(|byte| *byte == b',').rev());
    // RFC 9110 section 5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty
    // list elements".
    let mut elements = elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty());
    let mut client = peer;
    while is_trusted(client)
        && let Some(next) = elements.next().and_then(parse)
    {
        client = next;
    }
    client
}

/// An address; some proxies add the port, or brackets.
fn parse(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse::<IpAddr>().or_else(|_| with_port()).ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::Front;

    /// The client by these lines of the header, where 10.0.0.0/8 and fd00::/8 are trusted.
    fn client(peer: &str, lines: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        let front = Front::new(networks.to_vec(), false);
        let fields = lines.iter().map(|line| line.as_bytes());
        front.client(peer.parse().unwrap(), fields).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(client("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["10.0.0.1", "198.51.100.1"]), "192.0.2.1");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["2001:db8::7,fd00::2"]), "2001:db8::7");
    }

    #[test]
    fn lines_of_the_header_are_one_list() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "10.0.0.3"]), "203.0.113.9");
    }

    #[test]
    fn where_all_are_trusted_the_leftmost_is_the_client_and_without_any_the_peer() {
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["", " , "]), "10.0.0.1");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, _hidden, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["198.51.100.1 10.0.0.2"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["\u{e4}"]), "10.0.0.1");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(client("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, ::ffff:10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.0.0.1", &[",198.51.100.1,"]), "198.51.100.1");
    }
}
