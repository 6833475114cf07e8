//! Turns an error of the client library into what an operator can act on.
//!
//! In:    the error, the server, what was being done.
//! Out:   one line: what is wrong, where, what to do.
//! Never: quotes a password or an envelope.

use redis::{ErrorKind, RedisError};

use super::address::Host;
use crate::broker::BrokerError;

/// An error of a server.
#[must_use]
pub fn explain(host: &Host, doing: &str, error: &RedisError) -> BrokerError {
    // A pipeline of 64 subscriptions that may not be made says so 64 times.
    let first = error.clone().into_server_errors().and_then(|all| all.first().cloned());
    let first = first.map(|(_, error)| RedisError::from(error));
    let error = first.as_ref().unwrap_or(error);
    let remedy = remedy(error);
    let remedy = if remedy.is_empty() { String::new() } else { format!(". {remedy}") };
    BrokerError(format!("redis at {host}: {doing} failed: {error}{remedy}"))
}

fn remedy(error: &RedisError) -> &'static str {
    by_kind(error)
        .or_else(|| by_words(&format!("{} {error}", error.code().unwrap_or(""))))
        .unwrap_or("")
}

fn by_kind(error: &RedisError) -> Option<&'static str> {
    if error.is_connection_refusal() {
        return Some("Nothing listens there: start the server, or correct broker.url");
    }
    if error.is_timeout() {
        return Some(
            "The server is stopped, overloaded or behind a firewall, or does not \
             speak TLS there (rediss:// in broker.url)",
        );
    }
    match error.kind() {
        ErrorKind::RESP3NotSupported => Some("Ringhall needs Redis 7 or later"),
        ErrorKind::AuthenticationFailed => Some(WRONG_PASSWORD),
        _ => None,
    }
}

const WRONG_PASSWORD: &str = "Correct the user and the password in broker.url: \
     redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST for the user \"default\" \
     (characters such as @ : / as %40 %3A %2F)";

/// What servers and TLS say, and what helps: the first that is found.
const REMEDIES: &[(&str, &str)] = &[
    ("WRONGPASS", WRONG_PASSWORD),
    ("NOAUTH", "The server wants a password: write it into broker.url, redis://:PASSWORD@HOST"),
    (
        "NOPERM",
        "Allow the user what Ringhall needs: ACL SETUSER NAME ~PREFIX* ~{PREFIX* &PREFIX* \
      &{PREFIX* +@all (PREFIX is broker.prefix)",
    ),
    (
        "READONLY",
        "The server is a replica: name the primary in broker.url, or the sentinels \
      (redis+sentinel://HOST:PORT,HOST:PORT/NAME)",
    ),
    (
        "MOVED",
        "The server is part of a cluster, or a slot has moved: write redis+cluster:// where \
      broker.url says redis://",
    ),
    ("CROSSSLOT", "The server is part of a cluster: write redis+cluster:// in broker.url"),
    ("CLUSTERDOWN", "The cluster has slots without a server: see CLUSTER INFO"),
    ("MASTERDOWN", "The server is a replica that has lost its primary"),
    ("LOADING", "The server is still reading its data; Ringhall tries again"),
    ("OOM", "The server is at its maxmemory: raise it, and set maxmemory-policy noeviction"),
    ("DENIED", "The server is in protected mode: give it a password, or bind it to an address"),
    ("max number of clients", "Raise the server's maxclients"),
    ("DB index is out of range", "Name a database in broker.url that the server has, or none"),
    (
        "UnknownIssuer",
        "The server's certificate is signed by an authority unknown here: name its \
      PEM file in broker.ca",
    ),
    (
        "NotValidForName",
        "The server's certificate is for another name: write that one into \
      broker.url",
    ),
    (
        "CaUsedAsEndEntity",
        "The server's certificate is an authority's: sign one for the server \
      with it",
    ),
    ("Expired", "The server's certificate has expired: renew it"),
    (
        "corrupt message",
        "The server does not speak TLS there: correct the port, or write redis:// \
      instead of rediss://",
    ),
    ("lookup address", "No such host: correct broker.url"),
];

fn by_words(text: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(said, _)| text.contains(said)).map(|(_, remedy)| *remedy)
}
