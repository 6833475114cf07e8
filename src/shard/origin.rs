//! From a socket's peer to the client behind it: whose a connection is, and how many those are.
//!
//! In:    peers' addresses; PROXY protocol headers and request heads of trusted proxies.
//! Out:   connections whose origin is known, counted where connections are; refusals.
//! Never: believes what comes from an address that `server.trusted_proxies` does not name.
//!
//! # Invariants
//! - A client is counted once: at accept where the peer is the client, behind the PROXY header
//!   where that names it, else when the request head is there.

use std::net::IpAddr;

use crate::conn::{Flags, Origin, Phase};
use crate::http::{Refusal, RefusalKind, field_values};
use crate::id::ConnId;
use crate::io::Io;
use crate::proxy::{Front, HeaderVerdict, header, read_header};
use crate::shard::{Shard, State};

/// What a refused request was told about its PROXY header.
const UNWANTED: &str = "This connection begins with a PROXY protocol header, which is taken from \
                        trusted proxies alone: name the address it comes from in \
                        server.trusted_proxies and set server.proxy_protocol = true, or have the \
                        proxy send none.";

impl<I: Io> Shard<I> {
    pub(super) fn peer_known(&mut self, id: ConnId, address: Option<IpAddr>) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        if conn.phase != Phase::Head {
            return;
        }
        if let Some(address) = address {
            if state.shared.front.awaits_header(address) {
                conn.flags.set(Flags::PREFACED);
            }
            if !state.introduce(id, address) {
                return;
            }
        }
        self.await_head(id);
    }

    /// Bytes of a trusted proxy's connection have come: the header first.
    pub(super) fn header_received(&mut self, id: ConnId, bytes: &[u8]) {
        let state = &mut self.state;
        let Some(conn) = state.conns.get(id) else { return };
        let received = &mut conn.cold().head;
        received.extend_from_slice(bytes);
        let (source, consumed) = match read_header(received) {
            HeaderVerdict::Whole { source, consumed } => (source, consumed),
            HeaderVerdict::Incomplete => {
                state.weigh(id);
                return self.await_head(id);
            }
            HeaderVerdict::Malformed(why) => return state.refuse(id, malformed(why)),
        };
        let mut request = std::mem::take(received);
        request.drain(..consumed);
        conn.flags.clear(Flags::PREFACED);
        state.weigh(id);
        if let Some(source) = source
            && !state.introduce(id, source)
        {
            return;
        }
        if request.is_empty() {
            return self.await_head(id);
        }
        self.head_received(id, &mut request);
    }
}

impl State {
    /// Whether it matters who a connection comes from.
    pub(super) fn asks_peers(&self) -> bool {
        self.limits.connections_per_address.is_some() || self.shared.front.is_set()
    }

    /// Notes who is connected; `false` where the connection was refused. A trusted proxy's own
    /// connections are nobody's until it says whose.
    fn introduce(&mut self, id: ConnId, address: IpAddr) -> bool {
        if !self.shared.front.trusts(address) {
            return self.enter(id, address);
        }
        if let Some(conn) = self.conns.get(id) {
            conn.cold().origin = Some(Origin { address, is_counted: false });
        }
        true
    }

    /// The request head is there, so the client is known as well as it will ever be; `false` where
    /// the connection was refused.
    pub(super) fn count_client(&mut self, id: ConnId, client: Option<Origin>) -> bool {
        match client {
            Some(Origin { address, is_counted: false }) => self.enter(id, address),
            _ => true,
        }
    }

    fn enter(&mut self, id: ConnId, address: IpAddr) -> bool {
        let Some(origin) = self.shared.enter(address, self.limits.connections_per_address) else {
            let message = "too many connections from this address \
                           (limits.connections_per_address); close some or try again later";
            let retry = self.random.u32(1..=10);
            self.refuse(id, Refusal::for_now(RefusalKind::TooManyConnections, message, retry));
            return false;
        };
        if let Some(conn) = self.conns.get(id) {
            conn.cold().origin = Some(origin);
        }
        true
    }
}

/// The client of a request, by its head, where its connection comes from `origin`.
pub(super) fn client_of(front: &Front, origin: Option<Origin>, head: &[u8]) -> Option<Origin> {
    let origin = origin?;
    if origin.is_counted || !front.trusts(origin.address) {
        return Some(origin);
    }
    let fields = field_values(head, "x-forwarded-for");
    Some(Origin { address: front.client(origin.address, fields.into_iter()), ..origin })
}

fn malformed(why: &str) -> Refusal {
    let message = format!(
        "A connection from a trusted proxy (server.trusted_proxies) begins with a PROXY protocol \
         header of version 2, because server.proxy_protocol is true; {why}. Have the proxy send \
         one (HAProxy: send-proxy-v2), or set server.proxy_protocol = false."
    );
    Refusal::new(RefusalKind::BadProxyHeader, message)
}

/// The refusal of what was no request, where a PROXY header is why.
pub(super) fn refuse_header(bytes: &[u8]) -> Option<Refusal> {
    // A zero byte tells it from the blank lines that may stand before a request.
    let is_header = bytes.contains(&0) && header::begins(bytes, header::SIGNATURE);
    let is_text = header::begins(bytes, b"PROXY ") && bytes.len() >= b"PROXY ".len();
    (is_header || is_text).then(|| Refusal::new(RefusalKind::BadProxyHeader, UNWANTED))
}
