//! Turns a client's key into the answer that completes the upgrade.
//!
//! In:    a checked `Sec-WebSocket-Key`, the chosen subprotocol.
//! Out:   the 101 response, all its bytes.
//! Never: checks the request; `http` does.

use tungstenite::handshake::derive_accept_key;

/// A key for a client to send: sixteen random bytes (RFC 6455 section 4.1).
#[must_use]
pub fn client_key() -> String {
    tungstenite::handshake::client::generate_key()
}

/// What a server has to answer to a key.
#[must_use]
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_the_key_of_the_rfc_is_that_of_the_rfc() {
        let response = accept_response("dGhlIHNhbXBsZSBub25jZQ==", None);
        let expected = "HTTP/1.1 101 Switching Protocols\r\n\
                        Upgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(String::from_utf8(response).unwrap(), expected);
    }

    #[test]
    fn a_chosen_subprotocol_is_named() {
        let response = accept_response("dGhlIHNhbXBsZSBub25jZQ==", Some("ringhall.raw"));
        assert!(response.ends_with(b"xOo=\r\nSec-WebSocket-Protocol: ringhall.raw\r\n\r\n"));
    }
}
