//! Turns the configured addresses into checks: can they be had, or is a server there already?
//!
//! In:    `server.listen`, `admin.listen`.
//! Out:   whether each is free; what a server that answers says about itself.
//! Never: keeps an address: what is opened is closed again.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::check::Check;
use super::patient::Patient;
use crate::net::{ListenOptions, listen as open};

/// How long a server may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Whether each address can be listened on.
pub(super) fn listen(patient: &Patient) -> Vec<Check> {
    let config = &patient.config;
    let running = health(config.admin_listen).is_some();
    let all = config.listen.iter().map(|address| (*address, "--listen"));
    let all = all.chain([(config.admin_listen, "--admin")]);
    all.map(|(address, flag)| {
        let check = Check::of(format!("address.{address}"));
        match open(address, &ListenOptions { flag, ..ListenOptions::default() }) {
            Ok(_) => check.measured("free").pass("the server can listen on it"),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
                check.measured("taken").pass("a running server has it: see server")
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => check.measured("taken").warn(
                format!("{error} (systemd, where it opens the sockets, is right to)"),
                format!("ss -ltnp 'sport = :{}'", address.port()),
            ),
            Err(error) => {
                let fix = format!("ringhall serve {flag} ADDRESS:PORT   # one that this box has");
                check.measured("refused").breaks_at(0).fail(error.to_string(), fix)
            }
        }
    })
    .collect()
}

/// What a running server says.
pub(super) fn server(patient: &Patient) -> Vec<Check> {
    let check = Check::of("server");
    let address = patient.config.admin_listen;
    let Some(health) = health(address) else {
        return vec![check.skip(format!("none answers at {address} (admin.listen)"))];
    };
    let number = |path: &str| health.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let (alive, total) =
        (number("/dependencies/shards/alive"), number("/dependencies/shards/total"));
    let connections = number("/connections");
    let check =
        check.measured(format!("{connections} connections, {alive} of {total} shards alive"));
    if alive < total {
        let message = "a shard does not turn: its connections hear nothing";
        return vec![check.fail(message, "systemctl restart ringhall")];
    }
    let dry = number("/counters/buffers_exhausted");
    let paused = number("/counters/accept_paused");
    let message = format!(
        "it answers at {address}; buffers ran out {dry} times, accepting paused \
                           {paused} times"
    );
    vec![check.pass(message)]
}

/// The JSON of `/health` at an admin listener.
fn health(address: SocketAddr) -> Option<Value> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).ok()?;
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let health: Value = serde_json::from_str(body).ok()?;
    // Somebody else's JSON at that address is not a server of ours.
    let is_ours = head.starts_with("HTTP/1.1 ") && health.get("dependencies").is_some();
    is_ours.then_some(health)
}
