//! Turns `ws://HOST:PORT` into addresses to connect to.
//!
//! In:    the text of a URL.
//! Out:   addresses, and what the `Host` field says.
//! Never: connects.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Connections that share one address of a server that listens on all of them.
const PER_ADDRESS: usize = 4000;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// `HOST:PORT`.
    pub host: String,
    address: SocketAddr,
}

impl Target {
    /// Reads a URL, and looks its host up.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("wss://") {
            return Err("there is no TLS here: give ws:// and the server's own port".to_owned());
        }
        let Some(host) = url.strip_prefix("ws://") else {
            return Err("write ws://HOST:PORT".to_owned());
        };
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.contains('/') {
            return Err("write ws://HOST:PORT alone: the paths are /echo and /ws/ROOM/USER".into());
        }
        let host = match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ => format!("{host}:80"),
        };
        let mut found = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let address = found.next().ok_or_else(|| format!("{host} has no address"))?;
        Ok(Self { url: url.to_owned(), host, address })
    }

    /// Where so many connections go. `0.0.0.0` is a server that listens on every address of this
    /// box: it is reached by as many of the loopback net's as it takes.
    #[must_use]
    pub fn addresses(&self, connections: usize) -> Vec<SocketAddr> {
        if self.address.ip() != IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            return vec![self.address];
        }
        let count = connections.div_ceil(PER_ADDRESS).max(1) as u32;
        let first = u32::from(Ipv4Addr::LOCALHOST);
        let address = |at| (Ipv4Addr::from(first + at), self.address.port()).into();
        (0..count).map(address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_a_port() {
        let target = Target::parse("ws://127.0.0.1:8000/").unwrap();
        assert_eq!(target.host, "127.0.0.1:8000");
        assert_eq!(target.addresses(9000), ["127.0.0.1:8000".parse().unwrap()]);
        assert_eq!(Target::parse("ws://127.0.0.1").unwrap().host, "127.0.0.1:80");
        assert_eq!(Target::parse("ws://[::1]:8000").unwrap().host, "[::1]:8000");
        for wrong in ["", "127.0.0.1:1", "http://x", "wss://127.0.0.1:1", "ws://127.0.0.1:1/echo"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wildcard_is_reached_by_many_addresses() {
        let addresses = Target::parse("ws://0.0.0.0:8000").unwrap().addresses(9000);
        let expected = ["127.0.0.1:8000", "127.0.0.2:8000", "127.0.0.3:8000"];
        assert_eq!(addresses, expected.map(|address| address.parse::<SocketAddr>().unwrap()));
    }
}
