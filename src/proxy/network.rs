//! Turns text such as `10.0.0.0/8` into a network that contains addresses.
//!
//! In:    an address, or an address and the length of its prefix.
//! Out:   `Network`; or why it is none.
//! Never: resolves a name.
//!
//! # Invariants
//! - Addresses are canonical: `::ffff:10.0.0.0/104` and `10.0.0.0/8` are the same network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Bits before the IPv4 address in an IPv6 address that is mapped from it (RFC 4291 section
/// 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Addresses that begin alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Length of the prefix: 1 to 32, or to 128.
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNetwork {
    /// No address, or no number behind the slash.
    Malformed,
    /// The prefix is longer than an address.
    TooLong,
    /// `/0`: everybody.
    Everybody,
    /// Bits behind the prefix are set; this network has none.
    HostBits(Network),
}

impl Network {
    /// Whether the address is one of it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
            _ => false,
        }
    }

    /// The network of this address whose prefix has so many bits, at least 1 and at most all.
    fn around(address: IpAddr, bits: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << (32 - bits))))
            }
            IpAddr::V6(v6) => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - bits))))
            }
        };
        Self { address, bits }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let mut address: IpAddr = address.parse().map_err(|_| BadNetwork::Malformed)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let mut bits = match bits {
            None => most,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| BadNetwork::Malformed)?
            }
            Some(_) => return Err(BadNetwork::Malformed),
        };
        if bits > most {
            return Err(BadNetwork::TooLong);
        }
        if address.is_ipv6() && address.to_canonical().is_ipv4() && bits >= MAPPED_BITS {
            address = address.to_canonical();
            bits -= MAPPED_BITS;
        }
        if bits == 0 {
            return Err(BadNetwork::Everybody);
        }
        let network = Self::around(address, bits);
        if network.address == address { Ok(network) } else { Err(BadNetwork::HostBits(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == most {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect(text)
    }

    fn contains(text: &str, address: &str) -> bool {
        network(text).contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        for (text, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("128.0.0.0/1", "255.1.2.3", "127.255.255.255"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("8000::/1", "ffff::", "7fff::"),
        ] {
            assert!(contains(text, within), "{text} {within}");
            assert!(!contains(text, without), "{text} {without}");
        }
    }

    #[test]
    fn mapped_addresses_are_those_that_they_map() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert!(!contains("8000::/1", "127.0.0.1") && !contains("::/8", "127.0.0.1"));
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
    }

    #[test]
    fn what_is_no_network_says_why() {
        let why = |text: &str| text.parse::<Network>().unwrap_err();
        for text in ["", "localhost", "10.0.0/8", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/+8", "/8"] {
            assert_eq!(why(text), BadNetwork::Malformed, "{text}");
        }
        assert_eq!(why("10.0.0.0/33"), BadNetwork::TooLong);
        assert_eq!(why("::1/129"), BadNetwork::TooLong);
        assert_eq!(why("0.0.0.0/0"), BadNetwork::Everybody);
        assert_eq!(why("::/0"), BadNetwork::Everybody);
        assert_eq!(why("::ffff:0.0.0.0/96"), BadNetwork::Everybody);
        assert_eq!(why("10.1.2.3/8"), BadNetwork::HostBits(network("10.0.0.0/8")));
    }
}
