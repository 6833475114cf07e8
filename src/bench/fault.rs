//! Turns what went wrong into one sentence that says what to do.
//!
//! In:    errors of the kernel, refusals of the server, bytes that differ.
//! Out:   `Fault`, for stderr and exit code 1.
//! Never: prints.

use std::fmt;
use std::net::SocketAddr;

use crate::io::Errno;

/// Bytes of a payload that a message to a person shows.
const SHOWN_BYTES: usize = 96;

/// Why a run ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl Fault {
    /// A sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// A connection could not be made.
    #[must_use]
    pub fn connect(to: SocketAddr, error: Errno) -> Self {
        let remedy = match error {
            Errno::CONNREFUSED => {
                "nobody listens there: start the server, or give its address with --url".to_owned()
            }
            Errno::MFILE => "this process may open too few files: raise `ulimit -n`".to_owned(),
            Errno::NFILE => {
                "the box has too many open files: raise `sysctl fs.file-max`".to_owned()
            }
            Errno::NOMEM | Errno::NOBUFS => {
                "the kernel has no memory for it: fewer --connections, or raise `sysctl \
                 net.ipv4.tcp_mem`"
                    .to_owned()
            }
            Errno::TIMEDOUT => {
                "nobody answered: the server's backlog is full (`net.core.somaxconn`) or a \
                 firewall drops what is sent"
                    .to_owned()
            }
            Errno::ADDRNOTAVAIL => "no source port is free: fewer --connections, or widen `sysctl \
                 net.ipv4.ip_local_port_range`"
                .to_owned(),
            other => other.to_string(),
        };
        Self(format!("cannot connect to {to}: {remedy}"))
    }

    /// What came is not what was to come.
    #[must_use]
    pub fn differs(connection: usize, expected: &[u8], received: &[u8]) -> Self {
        Self(format!(
            "connection {connection} received something else than was sent\n  expected {}\n  \
             received {}",
            shown(expected),
            shown(received),
        ))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Bytes for a person: printable, shortened, with their length.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let dots = if head.len() < bytes.len() { "..." } else { "" };
    format!("\"{}\"{dots} ({} bytes)", head.escape_ascii(), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bytes_are_shortened_and_odd_ones_escaped() {
        assert_eq!(shown(b"a\0"), "\"a\\x00\" (2 bytes)");
        let long = shown(&[b'x'; 500]);
        assert!(long.len() < 130 && long.ends_with("... (500 bytes)"), "{long}");
    }

    #[test]
    fn a_refused_connection_says_what_to_do() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let fault = Fault::connect(to, Errno::CONNREFUSED).to_string();
        assert!(fault.contains("127.0.0.1:9") && fault.contains("start the server"), "{fault}");
    }
}
