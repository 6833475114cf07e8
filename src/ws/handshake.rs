//! Turns a client's key into the answer that completes the upgrade.
//!
//! In:    a checked `Sec-WebSocket-Key`, the chosen subprotocol.
//! Out:   the 101 response, all its bytes.
//! Never: checks the request; `http` does.

use tungstenite::handshake::derive_accept_key;

/// The response that accepts an upgrade (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept_response(key: &str, protocol: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(derive_accept_key(key.as_bytes()).as_bytes());
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}
