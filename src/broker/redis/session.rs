//! One session: connections to all servers, what runs beside them, what is published.
//!
//! In:    batches; what the servers push.
//! Out:   one pipeline a server and batch; envelopes to the inlet; the news that it is over.
//! Never: mends itself: the first trouble ends it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::{PushInfo, PushKind, RedisResult, ServerErrorKind, Value};
use tokio::task::JoinSet;

use super::address::{Address, Host, Kind};
use super::log::Log;
use super::names::Names;
use super::nodes::{Node, Nodes, Pushed, greet};
use super::reader::Reader;
use super::trouble::explain;
use crate::bridge::envelope::{Body, partition, read};
use crate::bridge::{Delivery, Place};
use crate::broker::loss::Loss;
use crate::broker::{BrokerError, GivenUp, Inlet, Lane, Later, Parcel, Session};
use crate::id::RoomKey;
use crate::limits::PARTITIONS;
use crate::room::epoch::Epoch;

/// How often a server is asked whether it still is what it was: a primary that was demoted while
/// the connection stood says nothing by itself, and takes what nobody hears.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What an engine opens a session with.
#[derive(Debug)]
pub struct Setup {
    /// Where.
    pub address: Address,
    /// Names of channels and keys.
    pub names: Arc<Names>,
    /// Whether partitions travel by pub/sub or by log.
    pub delivery: Delivery,
    /// What is known of the logs.
    pub log: Rc<Log>,
}

/// A session of a Redis.
#[derive(Debug)]
pub struct RedisSession {
    setup: Rc<Setup>,
    nodes: Nodes,
    loss: Arc<Loss>,
    /// Readers and watches; they end with the session.
    _beside: JoinSet<()>,
}

impl RedisSession {
    /// Connects, subscribes, reads.
    ///
    /// # Errors
    /// A server that cannot be used, with the remedy.
    pub async fn open(setup: Rc<Setup>, inlet: Arc<dyn Inlet>) -> Result<Self, BrokerError> {
        let loss = Arc::<Loss>::default();
        let pushed = receiver(&setup.names, &inlet, &loss);
        let nodes = Nodes::open(&setup.address, &setup.names, &pushed).await?;
        subscribe(&setup, &nodes).await?;
        let mut beside = JoinSet::new();
        if setup.delivery == Delivery::Ordered {
            load(&setup.log, &nodes).await?;
            for reader in readers(&setup, &nodes).await? {
                let (loss, inlet) = (Arc::clone(&loss), Arc::clone(&inlet));
                beside.spawn_local(async move { loss.lose(reader.run(inlet).await) });
            }
        }
        let mode = setup.address.kind.mode();
        for node in &nodes.all {
            let (host, connection) = (node.host.clone(), node.connection.clone());
            let loss = Arc::clone(&loss);
            beside.spawn_local(async move {
                loss.lose(watch_over(host, connection, mode).await);
            });
        }
        Ok(Self { setup, nodes, loss, _beside: beside })
    }

    /// A pipeline a server, in the order of the parcels.
    fn pipelines(&self, parcels: &[Parcel]) -> Result<Vec<redis::Pipeline>, BrokerError> {
        let mut pipelines = Vec::new();
        pipelines.resize_with(self.nodes.all.len(), redis::Pipeline::new);
        let publish = self.publish_command();
        let mut placed: [Vec<(String, &[u8])>; PARTITIONS] = std::array::from_fn(|_| Vec::new());
        for parcel in parcels {
            match (parcel.lane, self.setup.delivery) {
                (Lane::Partition(at), Delivery::Ordered) => {
                    placed[at].push((self.room_of(at, &parcel.envelope)?, &parcel.envelope[..]));
                }
                (lane, _) => {
                    let pipeline = &mut pipelines[self.nodes.of(lane)];
                    let channel = self.setup.names.channel(lane);
                    pipeline.cmd(publish).arg(channel).arg(&parcel.envelope[..]);
                }
            }
        }
        for (at, messages) in placed.iter().enumerate().filter(|(_, messages)| !messages.is_empty())
        {
            let call = self.setup.log.call(&self.setup.names.log[at], messages);
            pipelines[self.nodes.of(Lane::Partition(at))].add_command(call);
        }
        Ok(pipelines)
    }

    fn publish_command(&self) -> &'static str {
        if self.setup.address.kind == Kind::Cluster { "SPUBLISH" } else { "PUBLISH" }
    }

    fn room_of(&self, at: usize, envelope: &[u8]) -> Result<String, BrokerError> {
        match read(envelope).map(|envelope| envelope.body) {
            Ok(Body::Said(said)) => Ok(self.setup.names.room(at, said.mode, said.room)),
            _ => Err(BrokerError(
                "what is said in order must name its room: a fault of Ringhall".to_owned(),
            )),
        }
    }
}

impl Session for RedisSession {
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>> {
        Box::pin(async move {
            let pipelines = self.pipelines(parcels)?;
            let each = self.nodes.all.iter().zip(pipelines);
            let sent = each
                .filter(|(_, pipeline)| !pipeline.is_empty())
                .map(|(node, pipeline)| send(node, pipeline, &self.setup.log));
            try_join_all(sent).await.map(|_| GivenUp::new())
        })
    }

    fn place<'a>(&'a self, room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>> {
        Box::pin(async move {
            let at = partition(&room.name);
            let node = &self.nodes.all[self.nodes.of(Lane::Partition(at))];
            let (log, key) = (&self.setup.log, self.setup.names.room(at, room.mode, &room.name));
            let mut call = log.place.prepare_invoke();
            call.key(key).arg(log.next_epoch().as_str()).arg(log.room_keep_ms());
            let answer: RedisResult<(String, u64)> =
                call.invoke_async(&mut node.connection.clone()).await;
            let trouble = |error| explain(&node.host, "asking for a room's place", &error);
            let (epoch, offset) = answer.map_err(trouble)?;
            let epoch = Epoch::parse(&epoch).ok_or_else(|| {
                BrokerError(format!(
                    "redis at {}: the numbering of room {room} was written by another program: \
                     give Ringhall a broker.prefix of its own",
                    node.host
                ))
            })?;
            Ok(Place { epoch, offset })
        })
    }

    fn lost(&self) -> Later<'_, BrokerError> {
        Box::pin(self.loss.wait())
    }
}

/// What happens with whatever a server pushes: runs in the driver of its connection.
fn receiver(names: &Arc<Names>, inlet: &Arc<dyn Inlet>, loss: &Arc<Loss>) -> Pushed {
    let (names, inlet, loss) = (Arc::clone(names), Arc::clone(inlet), Arc::clone(loss));
    Arc::new(move |host: &Host, push: PushInfo| match push.kind {
        PushKind::Message | PushKind::SMessage => {
            if let [Value::BulkString(channel), Value::BulkString(envelope)] = &push.data[..]
                && let Some(lane) = names.lane(channel)
            {
                inlet.receive(lane, envelope);
            }
        }
        PushKind::Disconnection => loss.lose(BrokerError(format!(
            "redis at {host} has closed the connection: it ended, failed over, or cut a client \
             that was too slow (client-output-buffer-limit pubsub)"
        ))),
        PushKind::Unsubscribe | PushKind::SUnsubscribe => loss.lose(BrokerError(format!(
            "redis at {host} has ended a subscription: the cluster moves slots"
        ))),
        _ => {}
    })
}

async fn subscribe(setup: &Setup, nodes: &Nodes) -> Result<(), BrokerError> {
    let cluster = setup.address.kind == Kind::Cluster;
    let subscribe = if cluster { "SSUBSCRIBE" } else { "SUBSCRIBE" };
    let mut pipelines = Vec::new();
    pipelines.resize_with(nodes.all.len(), redis::Pipeline::new);
    let partitions = match setup.delivery {
        Delivery::LocalFirst => PARTITIONS,
        Delivery::Ordered => 0,
    };
    for lane in (0..partitions).map(Lane::Partition).chain([Lane::Control]) {
        // One channel a command: in a cluster those of one command must share a slot.
        pipelines[nodes.of(lane)].cmd(subscribe).arg(setup.names.channel(lane));
    }
    let each = nodes.all.iter().zip(pipelines).filter(|(_, pipeline)| !pipeline.is_empty());
    let subscribed = each.map(async |(node, pipeline)| {
        let done = pipeline.query_async::<Vec<Value>>(&mut node.connection.clone()).await;
        done.map_err(|error| explain(&node.host, "subscribing", &error))
    });
    try_join_all(subscribed).await.map(|_| ())
}

async fn load(log: &Log, nodes: &Nodes) -> Result<(), BrokerError> {
    let loaded = nodes.all.iter().map(async |node| {
        let load = log.say.prepare_invoke();
        let done = load.load_async(&mut node.connection.clone()).await;
        done.map_err(|error| explain(&node.host, "loading a script", &error))
    });
    try_join_all(loaded).await.map(|_| ())
}

/// One reader for a server; in a cluster one a partition, since keys of one `XREAD` must share a
/// slot.
async fn readers(setup: &Setup, nodes: &Nodes) -> Result<Vec<Reader>, BrokerError> {
    let groups: Vec<Vec<usize>> = match setup.address.kind {
        Kind::Cluster => (0..PARTITIONS).map(|at| vec![at]).collect(),
        Kind::Single | Kind::Sentinel(_) => vec![(0..PARTITIONS).collect()],
    };
    let opened = groups.into_iter().map(|group| {
        let node = &nodes.all[nodes.of(Lane::Partition(group[0]))];
        Reader::open(node, &setup.names, &setup.log, group)
    });
    try_join_all(opened).await
}

async fn watch_over(
    host: Host,
    mut connection: redis::aio::MultiplexedConnection,
    mode: &str,
) -> BrokerError {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let greeting = greet(&host, &mut connection).await;
        if let Err(error) = greeting.and_then(|greeting| greeting.is_primary(mode)) {
            return error;
        }
    }
}

/// Sends a pipeline; calls of a script that the server has forgotten are made again.
async fn send(node: &Node, mut pipeline: redis::Pipeline, log: &Log) -> Result<(), BrokerError> {
    let trouble = |error| explain(&node.host, "publishing", &error);
    let mut connection = node.connection.clone();
    pipeline.ignore_errors();
    let answers: Vec<RedisResult<Value>> =
        pipeline.query_async(&mut connection).await.map_err(trouble)?;
    let mut again = redis::Pipeline::new();
    for (answer, command) in answers.into_iter().zip(pipeline.cmd_iter()) {
        match answer {
            Ok(_) => {}
            Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                // Each partition is one call: what is made again keeps its order.
                again.add_command(command.clone());
            }
            Err(error) => return Err(trouble(error)),
        }
    }
    if again.is_empty() {
        return Ok(());
    }
    log.say.prepare_invoke().load_async(&mut connection).await.map_err(trouble)?;
    again.query_async::<Vec<Value>>(&mut connection).await.map(|_| ()).map_err(trouble)
}
