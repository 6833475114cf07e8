//! Turns what a proxy in front says about a client into the client's address.
//!
//! In:    the first bytes of a connection, `X-Forwarded-For`, the networks that proxies sit in.
//! Out:   a verdict on a PROXY protocol header; an address.
//! Never: touches a socket, or believes an address that `server.trusted_proxies` does not name.
//!
//! # Invariants
//! - What an untrusted address says about itself changes nothing.

mod forwarded;
pub mod header;
mod network;

use std::net::IpAddr;

pub use header::{HeaderVerdict, read_header};
pub use network::{BadNetwork, Network};

/// What stands in front of this server, and how it names its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    trusted: Vec<Network>,
    proxy_protocol: bool,
}

impl Front {
    /// `trusted`: `server.trusted_proxies`; `proxy_protocol`: `server.proxy_protocol`.
    #[must_use]
    pub fn new(trusted: Vec<Network>, proxy_protocol: bool) -> Self {
        Self { trusted, proxy_protocol }
    }

    /// Whether any proxy is trusted: then the address of every peer matters.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// Whether this address is a trusted proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Whether a connection from this address has to begin with a PROXY protocol header.
    #[must_use]
    pub fn awaits_header(&self, peer: IpAddr) -> bool {
        self.proxy_protocol && self.trusts(peer)
    }

    /// The client behind `peer`, by the values of the request's `X-Forwarded-For` fields, in
    /// order: the address furthest to the right that is no trusted proxy's, or the leftmost where
    /// all are. Values are read only where `peer` is trusted.
    #[must_use]
    pub fn client<'h>(
        &self,
        peer: IpAddr,
        fields: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> IpAddr {
        forwarded::client(peer, fields, |address| self.trusts(address))
    }
}
