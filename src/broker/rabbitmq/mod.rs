//! RabbitMQ: one exchange, and a queue of its own for every session.
//!
//! In:    `broker.url` (`amqp://` or `amqps://`); parcels.
//! Out:   sessions, each with one connection of its own.
//! Never: recovers a connection, or orders (there is no log: `broker.delivery = "local_first"`).
//!
//! Names at the server: the exchange `PREFIX` (direct, durable) with the keys `said.NN` and
//! `control`, and a queue `PREFIX.node.<id>.<incarnation>` a session, exclusive, so that it goes
//! with the connection. So a user at the server needs all three permissions on `^PREFIX`.
//!
//! # Invariants
//! - The client's thread for a connection ends with the session: by the server's answer, or by the
//!   missing heartbeat.
//! - Where a server once left a connection without an answer, it is asked over a plain socket
//!   first: the client would leave a thread behind at every attempt.

mod remedy;
mod session;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::remedy::explain;
use self::session::RabbitSession;
use super::{
    BrokerError, CONNECT_TIMEOUT, Engine, Inlet, Lane, Later, Options, Session, authorities,
};
use crate::bridge::Delivery;
use crate::bridge::envelope::Node;
use crate::limits::PARTITIONS;

/// Seconds between heartbeats where the URL does not say: the server drops the queue of a box that
/// it has not heard for two of them.
const HEARTBEAT_SECONDS: u16 = 5;
/// What every server of AMQP 0-9-1 answers.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Longest that a socket may take to connect, TLS included: a little less than a session may take.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(4);

/// An engine for `amqp://` and `amqps://`.
///
/// # Errors
/// Ordered delivery, a malformed URL, a prefix that is no name of an exchange, a `broker.ca` that
/// cannot be read.
pub fn engine(options: &Options) -> Result<Box<dyn Engine>, BrokerError> {
    if options.delivery == Delivery::Ordered {
        return Err(BrokerError(
            "RabbitMQ keeps no common log: set broker.delivery = \"local_first\", or use redis, \
             nats or kafka"
                .into(),
        ));
    }
    let tls = OwnedTLSConfig {
        cert_chain: options.ca.as_deref().map(authorities::read).transpose()?,
        ..OwnedTLSConfig::default()
    };
    Ok(Box::new(Rabbit {
        uri: parse(&options.url)?,
        tls: Arc::new(tls),
        names: Arc::new(Names::new(&options.prefix)?),
        node: options.node,
        sessions: Cell::new(0),
        unanswered: Cell::new(false),
    }))
}

fn parse(url: &str) -> Result<AMQPUri, BrokerError> {
    let wrong = || {
        BrokerError(
            "broker.url for RabbitMQ is malformed: write amqp://user:password@host:5672/vhost \
             (amqps:// for TLS), with special characters as %XX; the virtual host `/` is %2f, or \
             nothing"
                .into(),
        )
    };
    let mut uri: AMQPUri = url.parse().map_err(|_| wrong())?;
    let (_, address) = url.split_once("://").ok_or_else(wrong)?;
    let host = address.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if host.is_empty() {
        return Err(wrong());
    }
    // Of more than one part the parser takes the first: the rest would be nobody's.
    let path = address.split('?').next().and_then(|address| address.split_once('/'));
    if path.is_some_and(|(_, vhost)| vhost.contains('/')) {
        return Err(wrong());
    }
    // The parser takes an address in brackets for no name at all, and connects to localhost.
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        uri.authority.host = inside.to_owned();
    }
    // `amqp://host/` names the virtual host "", which nobody has: "/" is meant.
    if uri.vhost.is_empty() {
        uri.vhost = "/".into();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// The exchange and its keys.
#[derive(Debug)]
struct Names {
    exchange: ShortString,
    said: Vec<ShortString>,
    control: ShortString,
}

impl Names {
    fn new(prefix: &str) -> Result<Self, BrokerError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let is_name = (1..=64).contains(&prefix.len()) && prefix.bytes().all(allowed);
        if !is_name || prefix.starts_with("amq.") {
            return Err(BrokerError(format!(
                "broker.prefix `{prefix}` is no name of an exchange: use up to 64 letters, digits, \
                 `-`, `_`, `.`, `:`, and not `amq.` at its start"
            )));
        }
        Ok(Self {
            exchange: prefix.into(),
            said: (0..PARTITIONS).map(|nn| format!("said.{nn:02}").into()).collect(),
            control: "control".into(),
        })
    }

    /// The key of a lane; `None` for a partition that there is not.
    fn key(&self, lane: Lane) -> Option<&ShortString> {
        match lane {
            Lane::Partition(partition) => self.said.get(partition),
            Lane::Control => Some(&self.control),
        }
    }

    /// The lane of a key.
    fn lane(&self, key: &str) -> Option<Lane> {
        match key.strip_prefix("said.") {
            Some(number) => {
                let partition = number.parse().ok().filter(|nn| *nn < PARTITIONS)?;
                Some(Lane::Partition(partition))
            }
            None => (key == self.control.as_str()).then_some(Lane::Control),
        }
    }
}

struct Rabbit {
    uri: AMQPUri,
    tls: Arc<OwnedTLSConfig>,
    names: Arc<Names>,
    node: Node,
    /// So far: the queue of the last may still be held by a connection that the server believes in.
    sessions: Cell<u64>,
    /// The last attempt was given up in the middle of the handshake.
    unanswered: Cell<bool>,
}

impl Engine for Rabbit {
    fn kind(&self) -> &'static str {
        "rabbitmq"
    }

    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>> {
        Box::pin(async move {
            if self.unanswered.get() {
                self.knock().await?;
            }
            self.unanswered.set(true);
            let connected = self.dial().await;
            self.unanswered.set(false);
            let connection = connected.map_err(|error| explain(&self.server(), &error))?;
            let session =
                RabbitSession::open(connection, self.names.clone(), self.queue(), inlet).await;
            let session: Box<dyn Session> =
                Box::new(session.map_err(|error| explain(&self.server(), &error))?);
            Ok(session)
        })
    }
}

impl Rabbit {
    async fn dial(&self) -> lapin::Result<Connection> {
        let tls = self.tls.clone();
        let properties = ConnectionProperties::default().with_connection_name("ringhall".into());
        let socket = async move |uri: AMQPUri, runtime| {
            let connecting = uri.connect_with_config_async(tls.as_ref().as_ref(), &runtime);
            match tokio::time::timeout(SOCKET_TIMEOUT, connecting).await {
                Ok(connected) => connected.map_err(lapin::Error::from),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        };
        let runtime = lapin::runtime::default_runtime()?;
        Connection::connector(self.uri.clone(), runtime, socket, properties).await
    }

    /// Asks whether the server speaks, over a socket that nobody has to clean up after. With TLS
    /// there is no need: the socket of [`Rabbit::dial`] is not connected before the server spoke.
    async fn knock(&self) -> Result<(), BrokerError> {
        if self.uri.scheme == AMQPScheme::AMQPS {
            return Ok(());
        }
        let authority = &self.uri.authority;
        let asked = async {
            let mut socket = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
            socket.write_all(PROTOCOL_HEADER).await?;
            socket.read_u8().await
        };
        let answer = tokio::time::timeout(CONNECT_TIMEOUT / 2, asked).await;
        let silent = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let answer = answer.unwrap_or_else(|_| silent());
        answer.map(drop).map_err(|error| explain(&self.server(), &error.into()))
    }

    fn server(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    fn queue(&self) -> ShortString {
        let Node { id, incarnation } = self.node;
        let session = self.sessions.get();
        self.sessions.set(session + 1);
        let again = if session == 0 { String::new() } else { format!(".{session}") };
        let prefix = &self.names.exchange;
        format!("{prefix}.node.{id:016x}.{incarnation:08x}{again}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_virtual_host_means_the_usual_one() {
        for url in ["amqp://h", "amqp://h/", "amqp://h/%2f"] {
            assert_eq!(parse(url).expect(url).vhost, "/");
        }
        let uri = parse("amqps://u:p%40ss@h:99/chat?heartbeat=9").expect("a URL");
        assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("chat", Some(9)));
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("h", 99));
        assert_eq!(uri.authority.userinfo.password, "p@ss");
    }

    #[test]
    fn an_address_in_brackets_is_kept() {
        let uri = parse("amqp://u:p@[::1]:99").expect("a URL");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("::1", 99));
        let uri = parse("amqp://127.0.0.2:99").expect("a URL");
        assert_eq!(uri.authority.host, "127.0.0.2");
    }

    #[test]
    fn a_malformed_url_is_refused_without_showing_the_password() {
        for url in [
            "amqp://",
            "amqp://u:s3cret@",
            "amqp://u:s3cret@h:port",
            "amqp://u:s3cret@h/a/b",
            "amqp://u:s3cret@h//?heartbeat=5",
            "http://h",
            "h",
        ] {
            let error = parse(url).expect_err(url).0;
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_key_names_its_lane() {
        let names = Names::new("ringhall").expect("a name");
        for lane in [Lane::Control, Lane::Partition(0), Lane::Partition(63)] {
            assert_eq!(names.key(lane).and_then(|key| names.lane(key.as_str())), Some(lane));
        }
        for none in ["said.64", "said.x", "said", "controls", ""] {
            assert_eq!(names.lane(none), None, "{none}");
        }
        assert!(Names::new("amq.mine").is_err() && Names::new("").is_err());
    }
}
