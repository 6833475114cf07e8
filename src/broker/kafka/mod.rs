//! Kafka's protocol: a topic with a partition for each of ours, and one for everything else.
//!
//! In:    `broker.url`; parcels; the topics' records.
//! Out:   sessions; envelopes to the inlet, with their offsets where the delivery is ordered.
//! Never: joins a consumer group: every box reads everything, and keeps its positions itself.
//!
//! A session has three connections to each broker, since a broker answers one connection's requests
//! one by one and a fetch may wait: for writing, for what is said, and for the control lane, which
//! must not stand behind a log that is caught up with.
//!
//! # Invariants
//! - A session begins by writing a mark into each partition; it reads from the marks, or (ordered)
//!   from where the last session stopped. Nothing older than the first session is ever given.
//! - It has begun when it has read what it wrote.
//! - A session that is dropped leaves nothing behind once its requests have had their answers, or
//!   [`REQUEST_TIMEOUT`] has passed.

mod address;
mod fault;
mod gap;
mod positions;
mod reader;
mod session;
mod topics;
mod writer;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use krafka::Kafka;
use krafka::auth::{AuthConfig, TlsConfig};

use crate::bridge::Delivery;
use crate::bridge::envelope::Node;
use crate::broker::{BrokerError, Engine, Inlet, Later, Options, Session, authorities};
use crate::limits::PARTITIONS;
use address::{Address, Mechanism};
use fault::fault;
use positions::Positions;
use reader::{Logs, Reader, Way};
use session::KafkaSession;
use topics::Topics;
use writer::Writer;

/// How long a connection to one broker may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one request may wait for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a record may be offered: a moved leader is found within it.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may hold an answer back until there is something to say. The library waits for
/// all brokers of a round, so one that has nothing delays what the others have by as much; and
/// there are brokers that wait it out whatever they have.
const PACE: Duration = Duration::from_millis(5);

/// The same for the control lane, which has one partition and thus one broker.
const CONTROL_PACE: Duration = Duration::from_millis(20);

/// Makes the engine.
///
/// # Errors
/// What is wrong with `broker.url`, `broker.prefix` or `broker.ca`; no broker is asked.
pub fn engine(options: &Options) -> Result<Box<dyn Engine>, BrokerError> {
    let address = Address::read(&options.url)?;
    let topics = Topics::named(&options.prefix)?;
    let security = security(&address, options)?;
    Ok(Box::new(KafkaEngine {
        address,
        security,
        topics,
        delivery: options.delivery,
        keep: options.keep,
        node: options.node,
        pace: PACE,
        positions: Rc::new(RefCell::new(Positions::new())),
    }))
}

fn security(address: &Address, options: &Options) -> Result<AuthConfig, BrokerError> {
    let login = match &address.login {
        None => AuthConfig::plaintext(),
        Some(login) => {
            let (user, password) = (login.user.clone(), login.password.clone());
            match login.mechanism {
                Mechanism::Plain => AuthConfig::sasl_plain(user, password),
                Mechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
                Mechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
            }
        }
    };
    match (&options.ca, address.tls) {
        (None, false) => Ok(login),
        (None, true) => Ok(login.with_tls(TlsConfig::new())),
        (Some(_), false) => Err(BrokerError(
            "broker.ca is given but kafka:// speaks no TLS: write kafka+tls://, or leave it out"
                .to_owned(),
        )),
        (Some(ca), true) => {
            let pem = authorities::read(ca)?;
            Ok(login.with_tls(TlsConfig::new().with_ca_cert_pem(pem)))
        }
    }
}

struct KafkaEngine {
    address: Address,
    security: AuthConfig,
    topics: Topics,
    delivery: Delivery,
    keep: Duration,
    node: Node,
    pace: Duration,
    positions: Rc<RefCell<Positions>>,
}

impl Engine for KafkaEngine {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>> {
        Box::pin(async move {
            let session = Box::pin(self.begin(inlet)).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

impl KafkaEngine {
    async fn dial(&self) -> Result<Kafka, BrokerError> {
        let kafka = Kafka::builder(&self.address.hosts)
            .client_id("ringhall")
            .security(self.security.clone())
            .connect_timeout(DIAL_TIMEOUT)
            .request_timeout(REQUEST_TIMEOUT)
            // No task of the library's that looks for idle connections, and outlives them.
            .connections_max_idle(None)
            .metadata_topic_cache_ttl(None)
            .connect();
        kafka.await.map_err(|error| fault("connecting", &error))
    }

    async fn begin(&self, inlet: Arc<dyn Inlet>) -> Result<KafkaSession, BrokerError> {
        // One first: where nobody answers, the library says so once an attempt, not three times.
        let writing = self.dial().await?;
        let (reading, control) = tokio::try_join!(self.dial(), self.dial())?;
        let topic = topics::ensure(&writing.admin(), &self.topics, self.keep).await?;
        let writer = Writer::new(&writing, self.topics.clone()).await?;
        let marks = writer.mark(self.node).await?;
        // Positions of the session alone: it reads from the marks.
        let fresh = || Rc::new(RefCell::new(Positions::new()));
        let (way, positions) = match self.delivery {
            Delivery::LocalFirst => (Way::LocalFirst, fresh()),
            Delivery::Ordered => (Way::Ordered, Rc::clone(&self.positions)),
        };
        let starts = positions.borrow_mut().resume(topic, &marks.said);
        let control_positions = fresh();
        let control_starts =
            control_positions.borrow_mut().resume(topic, &[marks.control; PARTITIONS]);
        let (said, rest) = tokio::try_join!(
            Reader::new(&reading, &self.topics.said, &starts, self.pace),
            Reader::new(&control, &self.topics.control, &control_starts[..1], CONTROL_PACE),
        )?;
        let (first_said, first) = tokio::try_join!(said.first(), rest.first())?;
        let mut session = KafkaSession::new(writer, Rc::clone(&positions), self.delivery);
        let rest =
            Logs::new(rest, control_positions, Arc::clone(&inlet), Way::Control, CONTROL_PACE);
        session.run(rest.run(first));
        session.run(reader::watch(control, self.topics.said.clone(), topic));
        session.run(Logs::new(said, positions, inlet, way, self.pace).run(first_said));
        Ok(session)
    }
}
