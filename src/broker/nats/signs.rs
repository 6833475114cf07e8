//! What a NATS connection tells of itself.
//!
//! In:    the client's events and errors; markers that came back.
//! Out:   why the session is lost, once; how far the server has taken its batches.
//! Never: says the same a hundred times a second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::{ConnectError, ConnectErrorKind, Event, ServerError};
use tokio::sync::watch;

use super::BrokerError;
use crate::broker::loss::Loss;

/// Pause between two lines about a slow reader.
const PAUSE: Duration = Duration::from_secs(1);

/// Shared by a session, its readers and the client's task.
#[derive(Debug)]
pub struct Signs {
    loss: Loss,
    /// The number of the last marker that came back.
    acked: watch::Sender<u64>,
    slow: Mutex<Slow>,
}

#[derive(Debug, Default)]
struct Slow {
    missed: u64,
    said: Option<Instant>,
}

impl Signs {
    /// Of a connection that is well.
    pub fn new() -> Self {
        Self { loss: Loss::default(), acked: watch::Sender::new(0), slow: Mutex::default() }
    }

    /// Takes an event of the client.
    pub fn note(&self, event: &Event) {
        match event {
            Event::Disconnected | Event::Closed => self.lose("the connection to NATS was lost"),
            Event::ServerError(error) => self.lose(&complaint(error)),
            Event::SlowConsumer(_) => self.miss(),
            Event::LameDuckMode => tracing::info!("NATS announces that it will stop"),
            // Of the attempt to reach nowhere, after which the client's task ends.
            Event::ClientError(_) | Event::Connected | Event::Draining => {}
        }
    }

    /// Ends the session; the first reason stays.
    pub fn lose(&self, reason: &str) {
        self.loss.lose(BrokerError(reason.to_owned()));
    }

    /// Why the session is lost, or what else went wrong.
    pub fn reason(&self, otherwise: &str) -> BrokerError {
        self.loss.reason(BrokerError(otherwise.to_owned()))
    }

    /// Resolves when the session is lost.
    pub async fn lost(&self) -> BrokerError {
        self.loss.wait().await
    }

    /// A marker came back: whatever was published before it is with the server.
    pub fn ack(&self, number: u64) {
        self.acked.send_if_modified(|acked| {
            let newer = number > *acked;
            *acked = number.max(*acked);
            newer
        });
    }

    /// Resolves when the marker of that number, or a later one, has come back.
    ///
    /// # Errors
    /// The session is lost before.
    pub async fn acked(&self, number: u64) -> Result<(), BrokerError> {
        let mut acked = self.acked.subscribe();
        tokio::select! {
            biased;
            _ = acked.wait_for(|acked| *acked >= number) => Ok(()),
            error = self.lost() => Err(error),
        }
    }

    /// The reader was too slow for one message: it is lost here, and counted as a gap when the next
    /// of its sender comes.
    fn miss(&self) {
        let Ok(mut slow) = self.slow.lock() else { return };
        slow.missed += 1;
        if slow.said.is_none_or(|said| said.elapsed() >= PAUSE) {
            slow.said = Some(Instant::now());
            let missed = std::mem::take(&mut slow.missed);
            tracing::warn!(missed, "the box is slower than NATS delivers: messages were dropped");
        }
    }
}

fn complaint(error: &ServerError) -> String {
    let said = match error {
        ServerError::Other(said) => said.clone(),
        known => known.to_string(),
    };
    let remedy = if said.to_lowercase().contains("permissions violation") {
        ": allow the user of broker.url to publish and subscribe to `PREFIX.>` (broker.prefix), \
         and with broker.delivery = \"ordered\" to `$JS.API.>` and `_INBOX.>`"
    } else if said.to_lowercase().contains("authorization violation") {
        ": check user and password in broker.url"
    } else {
        ""
    };
    format!("NATS says `{said}`{remedy}")
}

/// Why a server did not let the client in, and what to do.
pub fn refused(host: &str, error: &ConnectError) -> BrokerError {
    let text = error.to_string();
    let remedy = match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            "check user and password (or the token) in broker.url, \
             nats://user:password@host, against the server's `authorization`"
        }
        ConnectErrorKind::Dns => "the host's name is not known: check broker.url",
        ConnectErrorKind::TimedOut => "it does not answer: check broker.url, and the server",
        _ if text.contains("certificate") => {
            "the server's certificate is not trusted: name its authority in broker.ca, and the \
             server in broker.url as in the certificate"
        }
        ConnectErrorKind::Tls => "check broker.ca, or use nats:// where the server has no TLS",
        _ if text.contains("refused") => "is the server running? check host and port in broker.url",
        _ => "check broker.url, and the server's log",
    };
    BrokerError(format!("NATS at {host}: {text}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let signs = Signs::new();
        signs.note(&Event::SlowConsumer(3));
        assert_eq!(signs.reason("well"), BrokerError("well".into()));
        let error = ServerError::Other("Permissions Violation for Publish to \"a\"".into());
        signs.note(&Event::ServerError(error));
        signs.note(&Event::Disconnected);
        let BrokerError(reason) = signs.reason("well");
        assert!(reason.contains("PREFIX.>"), "{reason}");
    }
}
