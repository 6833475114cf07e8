//! Turns a server's addresses into connecting sockets, each from an address and port of its own.
//!
//! In:    where the server listens.
//! Out:   non-blocking sockets whose connect is under way.
//! Never: waits for one of them.
//!
//! # Why sources are chosen here
//! A client that leaves the port to the kernel makes it search, the longer the more connections
//! there are, and 28 000 of them is all that one pair of addresses has. On the loopback net every
//! address of 127/8 is ours: so each connection names its source. At most `PER_ADDRESS` of them
//! share an address, since with 20 000 the kernel's look-up of them took most of the CPU.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::fault::Fault;

/// Connections that share an address, of ours or of the server.
const PER_ADDRESS: u32 = 4000;
/// First source port: below are those that servers listen on.
const PORT_FIRST: u32 = 10_000;
/// Source addresses: 127.64.0.1 to 127.127.255.64.
const SOURCES: u32 = 64 * 256 * 64;
/// Sources that are tried before giving up, where neighbours have taken some.
const TRIES: u32 = 1000;

/// Where connections go, and where they come from.
#[derive(Debug)]
pub struct Routes {
    to: Vec<SocketAddr>,
    /// Sources used so far, and where they begin: two generators side by side seldom meet.
    used: u32,
    first: u32,
}

impl Routes {
    /// To these addresses: as many connections as may share one go to the first, then to the next.
    ///
    /// # Panics
    /// If there is no address.
    #[must_use]
    pub fn new(to: Vec<SocketAddr>) -> Self {
        assert!(!to.is_empty(), "connections go somewhere");
        Self { to, used: 0, first: fastrand::u32(0..SOURCES) }
    }

    /// The next connection.
    ///
    /// # Errors
    /// Where the server is not there, or no socket or port is to be had.
    pub fn connect(&mut self) -> Result<OwnedFd, Fault> {
        let mut refused = Errno::ADDRNOTAVAIL;
        let mut to = self.to[0];
        for _ in 0..TRIES {
            let at = self.used;
            self.used = self.used.wrapping_add(1);
            to = self.to[(at / PER_ADDRESS) as usize % self.to.len()];
            match begin(to, self.source(to, at)) {
                Ok(socket) => return Ok(socket),
                Err(error) => refused = error,
            }
            // Somebody else has this source: the next one may be free.
            if !matches!(refused, Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) {
                break;
            }
        }
        Err(Fault::connect(to, refused))
    }

    /// The first of the server's addresses.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to[0]
    }

    fn source(&self, to: SocketAddr, at: u32) -> Option<SocketAddr> {
        let IpAddr::V4(host) = to.ip() else { return None };
        if !host.is_loopback() {
            return None;
        }
        let place = self.first.wrapping_add(at / PER_ADDRESS) % SOURCES;
        let octets = [64 + (place >> 14), place >> 6 & 255, 1 + (place & 63)];
        let [second, third, fourth] = octets.map(|octet| u8::try_from(octet).unwrap_or(u8::MAX));
        let source = Ipv4Addr::new(127, second, third, fourth);
        let port = PORT_FIRST + at % PER_ADDRESS;
        Some(SocketAddr::from((source, u16::try_from(port).unwrap_or(u16::MAX))))
    }
}

fn begin(to: SocketAddr, from: Option<SocketAddr>) -> Result<OwnedFd, Errno> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP));
    let socket = socket.map_err(|error| errno(&error))?;
    socket.set_tcp_nodelay(true).map_err(|error| errno(&error))?;
    if let Some(from) = from {
        // Without it the kernel looks whether anybody at all uses the port.
        socket.set_reuse_address(true).map_err(|error| errno(&error))?;
        socket.bind(&from.into()).map_err(|error| errno(&error))?;
    }
    match socket.connect(&to.into()).map_err(|error| errno(&error)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_million_connections_have_a_million_sources() {
        let to = SocketAddr::from(([127, 0, 0, 1], 80));
        let routes = Routes { first: SOURCES - 3, ..Routes::new(vec![to]) };
        let mut seen = HashSet::new();
        for at in 0..1_000_000 {
            let source = routes.source(to, at).unwrap();
            assert!(source.ip().is_loopback() && source.port() >= 10_000);
            assert!(seen.insert(source), "{source} twice");
        }
        assert_eq!(routes.source("[::1]:80".parse().unwrap(), 0), None);
        assert_eq!(routes.source("192.0.2.1:80".parse().unwrap(), 0), None);
    }
}
