//! NATS: core pub/sub, and JetStream where the delivery is ordered.
//!
//! In:    `broker.url` (`nats://` or `tls://`, hosts with commas); parcels.
//! Out:   sessions, each with one connection of its own.
//! Never: reconnects within a session, or lets the client send what an older session left.
//!
//! Names at the server: `PREFIX.said.NN`, `PREFIX.control`, `PREFIX.ack.*` (a session hears there
//! that the server has taken its batch) and, ordered, the stream of [`log`] on `PREFIX.log.NN`. So
//! a user at the server needs `PREFIX.>` for publishing and subscribing, and `_INBOX.>` and
//! `$JS.API.>` for ordered delivery.
//!
//! # Invariants
//! - The connection's own messages come back: there is no `no_echo`. They are the loop-back probe.
//! - The client's pool of servers is a closed port from the moment it is connected, and it may try
//!   that once: a lost connection ends its task, and with it whatever waits in its buffers.

mod log;
mod session;
mod signs;
mod target;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Subject};

use self::log::Log;
use self::session::NatsSession;
use self::signs::Signs;
use self::target::Target;
use super::{
    BrokerError, CONNECT_TIMEOUT, Engine, Inlet, Lane, Later, Options, Session, authorities,
};
use crate::bridge::Delivery;
use crate::bridge::envelope::Node;
use crate::limits::PARTITIONS;

/// Commands that wait for the client's task: a batch with its marker and some pulls fit.
const COMMANDS_MAX: usize = 1024;
/// Messages that a subscription's reader may be behind: it is never behind for longer than the
/// client's task runs without a pause.
const UNREAD_MAX: usize = 16 << 10;
/// How often the client asks whether the server is there: it gives up after two unanswered, so
/// that what an abandoned session left of itself is gone after three seconds.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Where nobody listens: a client that has lost its server is sent here, and ends.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// An engine for `nats://` and `tls://`.
///
/// # Errors
/// A URL that names no host or holds a malformed one, a prefix that is no subject, a `broker.ca`
/// that cannot be read.
pub fn engine(options: &Options) -> Result<Box<dyn Engine>, BrokerError> {
    let target = Target::parse(&options.url)?;
    if let Some(ca) = &options.ca {
        authorities::read(ca)?;
    }
    let names = Names::new(&options.prefix)?;
    let log = (options.delivery == Delivery::Ordered).then(|| Log::new(options));
    Ok(Box::new(Nats {
        target,
        ca: options.ca.clone(),
        names: Arc::new(names),
        node: options.node,
        sessions: Cell::new(0),
        log,
    }))
}

/// The subjects.
#[derive(Debug)]
struct Names {
    said: Vec<Subject>,
    every_said: String,
    control: Subject,
    ack: String,
}

impl Names {
    fn new(prefix: &str) -> Result<Self, BrokerError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let dots = prefix.split('.').any(str::is_empty);
        if dots || !prefix.bytes().all(allowed) {
            return Err(BrokerError(format!(
                "broker.prefix `{prefix}` is no subject of NATS: use letters, digits, `-`, `_`, \
                 and single dots within"
            )));
        }
        Ok(Self {
            said: (0..PARTITIONS).map(|nn| format!("{prefix}.said.{nn:02}").into()).collect(),
            every_said: format!("{prefix}.said.*"),
            control: format!("{prefix}.control").into(),
            ack: format!("{prefix}.ack"),
        })
    }

    /// The subject of a lane; `None` for a partition that there is not.
    fn subject(&self, lane: Lane) -> Option<&Subject> {
        match lane {
            Lane::Partition(partition) => self.said.get(partition),
            Lane::Control => Some(&self.control),
        }
    }
}

/// The partition that a subject's last word names.
fn partition(subject: &str) -> Option<usize> {
    let (_, number) = subject.rsplit_once('.')?;
    number.parse().ok().filter(|partition| *partition < PARTITIONS)
}

struct Nats {
    target: Target,
    ca: Option<PathBuf>,
    names: Arc<Names>,
    node: Node,
    /// So far: a session's marker must not be taken for another's.
    sessions: Cell<u64>,
    log: Option<Log>,
}

impl Engine for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>> {
        Box::pin(async move {
            let (client, signs) = self.dial().await?;
            let mut session = NatsSession::new(client, self.names.clone(), signs);
            session.subscribe(self.ack(), self.log.is_none(), &inlet).await?;
            if let Some(log) = &self.log {
                session.follow(log, inlet).await?;
            }
            let session: Box<dyn Session> = Box::new(session);
            Ok(session)
        })
    }
}

impl Nats {
    fn ack(&self) -> String {
        let Node { id, incarnation } = self.node;
        let session = self.sessions.get();
        self.sessions.set(session + 1);
        format!("{}.{id:016x}-{incarnation:08x}-{session}", self.names.ack)
    }

    /// Connects to the first host that answers, in a drawn order: so that boxes spread themselves.
    async fn dial(&self) -> Result<(Client, Arc<Signs>), BrokerError> {
        let mut order: Vec<usize> = (0..self.target.hosts.len()).collect();
        fastrand::shuffle(&mut order);
        let mut failures = Vec::new();
        for index in order {
            match self.dial_host(&self.target.hosts[index]).await {
                Ok(connected) => return Ok(connected),
                Err(BrokerError(failure)) => failures.push(failure),
            }
        }
        Err(BrokerError(failures.join("; ")))
    }

    async fn dial_host(&self, host: &str) -> Result<(Client, Arc<Signs>), BrokerError> {
        let signs = Arc::new(Signs::new());
        let noted = signs.clone();
        let mut options = ConnectOptions::new()
            .name("ringhall")
            .client_capacity(COMMANDS_MAX)
            .subscription_capacity(UNREAD_MAX)
            .ping_interval(PING_INTERVAL)
            // All hosts have their turn within the time that connecting may take.
            .connection_timeout(CONNECT_TIMEOUT * 4 / 5 / self.target.hosts_count())
            .max_reconnects(1)
            .ignore_discovered_servers()
            .skip_subject_validation(true)
            .require_tls(self.target.tls)
            .event_callback(move |event| {
                noted.note(&event);
                std::future::ready(())
            });
        if let Some((user, password)) = &self.target.login {
            options = match password {
                Some(password) => options.user_and_password(user.clone(), password.clone()),
                None => options.token(user.clone()),
            };
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        let url = format!("{}://{host}", if self.target.tls { "tls" } else { "nats" });
        let client = options.connect(url).await.map_err(|error| signs::refused(host, &error))?;
        client
            .set_server_pool([NOWHERE].as_slice())
            .await
            .map_err(|error| signs.reason(&format!("NATS at {host}: {error}")))?;
        Ok((client, signs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_is_no_subject_is_refused() {
        for prefix in ["", "a b", "a*", "a.>", ".a", "a.", "a..b", "ä"] {
            assert!(Names::new(prefix).is_err(), "{prefix}");
        }
        let names = Names::new("my.chat-1").expect("a subject");
        let subject = |lane| names.subject(lane).map(Subject::as_str);
        assert_eq!(subject(Lane::Partition(7)), Some("my.chat-1.said.07"));
        assert_eq!(subject(Lane::Control), Some("my.chat-1.control"));
        assert_eq!(subject(Lane::Partition(PARTITIONS)), None);
    }

    #[test]
    fn a_subject_names_its_partition() {
        assert_eq!(partition("ringhall.said.07"), Some(7));
        assert_eq!(partition("a.b.said.63"), Some(63));
        for none in ["ringhall.said.64", "ringhall.said.x", "ringhall.said.", "said", ""] {
            assert_eq!(partition(none), None, "{none}");
        }
    }
}
