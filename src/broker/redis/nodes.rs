//! Connects to the servers that hold the partitions, and knows which holds which.
//!
//! In:    the address; what to do with messages that come.
//! Out:   one connection a server, checked: new enough, primary, of the kind that the URL says.
//! Never: connects again, follows a redirection, or waits without bound: a session that finds the
//!        servers changed ends, and the next one looks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, PushInfo, RedisError, RedisResult, Value};

use super::address::{Address, Host, Kind};
use super::names::Names;
use super::trouble::explain;
use crate::broker::{BrokerError, Lane};
use crate::limits::PARTITIONS;

/// Oldest major version: sharded pub/sub and scripts that may publish.
const MAJOR_MIN: u32 = 7;
/// Longest that one server may take to accept and to greet.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest that an answer may take. Whoever publishes gives up sooner
/// ([`crate::broker::PUBLISH_TIMEOUT`]).
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes what a server pushes, and the news that it is gone; never blocks.
pub type Pushed = Arc<dyn Fn(&Host, PushInfo) + Send + Sync>;

/// A server that holds partitions.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub host: Host,
    /// For further connections.
    pub client: Client,
    /// Publishes and subscribes.
    pub connection: MultiplexedConnection,
}

/// All servers of a session.
#[derive(Debug)]
pub struct Nodes {
    /// They.
    pub all: Vec<Node>,
    of_partition: [usize; PARTITIONS],
    of_control: usize,
}

impl Nodes {
    /// Which of them carries a lane.
    #[must_use]
    pub fn of(&self, lane: Lane) -> usize {
        match lane {
            Lane::Partition(at) => self.of_partition[at],
            Lane::Control => self.of_control,
        }
    }

    /// Connects to all of them.
    ///
    /// # Errors
    /// The first server that cannot be used.
    pub async fn open(
        address: &Address,
        names: &Names,
        pushed: &Pushed,
    ) -> Result<Self, BrokerError> {
        match &address.kind {
            Kind::Single => Self::single(dial(address, &address.hosts[0], pushed).await?),
            Kind::Sentinel(name) => {
                let host = primary(address, name).await?;
                Self::single(dial(address, &host, pushed).await?)
            }
            Kind::Cluster => {
                let Topology { hosts, of_partition, of_control } = topology(address, names).await?;
                let all = hosts.iter().map(|host| dial(address, host, pushed));
                Ok(Self { all: try_join_all(all).await?, of_partition, of_control })
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "an arm among others that may fail")]
    fn single(node: Node) -> Result<Self, BrokerError> {
        Ok(Self { all: vec![node], of_partition: [0; PARTITIONS], of_control: 0 })
    }
}

/// Settings of every connection.
#[must_use]
pub fn settings() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DIAL_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
}

async fn dial(address: &Address, host: &Host, pushed: &Pushed) -> Result<Node, BrokerError> {
    let trouble = |error: RedisError| explain(host, "connecting", &error);
    let client = address.client(host).map_err(trouble)?;
    let (pushed, from) = (Arc::clone(pushed), host.clone());
    let settings = settings().set_push_sender(move |push| {
        pushed(&from, push);
        Ok::<(), redis::aio::SendError>(())
    });
    let connection = client.get_multiplexed_async_connection_with_config(&settings).await;
    let mut connection = connection.map_err(trouble)?;
    greet(host, &mut connection).await?.is_primary(address.kind.mode())?;
    Ok(Node { host: host.clone(), client, connection })
}

/// What a server says of itself.
#[derive(Debug)]
pub struct Greeting<'a> {
    host: &'a Host,
    version: String,
    mode: String,
    role: String,
}

/// Asks a server what it is.
///
/// # Errors
/// It does not answer.
pub async fn greet<'a>(
    host: &'a Host,
    connection: &mut MultiplexedConnection,
) -> Result<Greeting<'a>, BrokerError> {
    let greeting: RedisResult<HashMap<String, Value>> =
        redis::cmd("HELLO").query_async(connection).await;
    let greeting = greeting.map_err(|error| explain(host, "greeting", &error))?;
    let word = |key: &str| match greeting.get(key) {
        Some(Value::BulkString(word)) => String::from_utf8_lossy(word).into_owned(),
        Some(Value::SimpleString(word)) => word.clone(),
        _ => String::new(),
    };
    Ok(Greeting { host, version: word("version"), mode: word("mode"), role: word("role") })
}

impl Greeting<'_> {
    /// Refuses what is too old or of another kind: `standalone`, `cluster`, `sentinel`.
    ///
    /// # Errors
    /// The remedy.
    pub fn is(&self, wanted: &str) -> Result<(), BrokerError> {
        let Self { host, version, mode, .. } = self;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major < MAJOR_MIN) {
            return Err(BrokerError(format!(
                "redis at {host} is version {version}: Ringhall needs {MAJOR_MIN} or later. \
                 Update it, or name another server in broker.url"
            )));
        }
        // A sentinel has no role; a server that does not say its mode is taken at the URL's word.
        if !mode.is_empty() && mode != wanted {
            let scheme = match mode.as_str() {
                "cluster" => "redis+cluster://HOST:PORT,HOST:PORT",
                "sentinel" => "redis+sentinel://HOST:PORT,HOST:PORT/NAME",
                _ => "redis://HOST:PORT",
            };
            return Err(BrokerError(format!(
                "redis at {host} runs as {mode}, not as {wanted}: write {scheme} into broker.url"
            )));
        }
        Ok(())
    }

    /// The same, and refuses a replica.
    ///
    /// # Errors
    /// The remedy.
    pub fn is_primary(&self, wanted: &str) -> Result<(), BrokerError> {
        self.is(wanted)?;
        let host = self.host;
        if self.role == "replica" || self.role == "slave" {
            return Err(BrokerError(format!(
                "redis at {host} is a READONLY replica: what is published there reaches \
                 nobody else. Name the primary in broker.url, or the sentinels \
                 (redis+sentinel://HOST:PORT,HOST:PORT/NAME)"
            )));
        }
        Ok(())
    }
}

/// Asks the sentinels, one after the other, for the primary.
async fn primary(address: &Address, name: &str) -> Result<Host, BrokerError> {
    let mut first = None;
    for host in &address.hosts {
        match ask_sentinel(address, host, name).await {
            Ok(primary) => return Ok(primary),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| BrokerError("broker.url names no sentinel".to_owned())))
}

async fn ask_sentinel(address: &Address, host: &Host, name: &str) -> Result<Host, BrokerError> {
    let trouble = |error: RedisError| explain(host, "asking the sentinel", &error);
    let connect = async |with_password| {
        let client = address.sentinel(host, with_password)?;
        client.get_multiplexed_async_connection_with_config(&settings()).await
    };
    let mut connection = match connect(false).await {
        Err(error) if error.code() == Some("NOAUTH") && address.has_password() => {
            connect(true).await
        }
        other => other,
    }
    .map_err(trouble)?;
    greet(host, &mut connection).await?.is("sentinel")?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let found: Option<(String, u16)> = ask.query_async(&mut connection).await.map_err(trouble)?;
    let (name, port) = found.ok_or_else(|| {
        BrokerError(format!(
            "the sentinel at {host} watches no primary named {name:?}: correct the name at the end \
             of broker.url (SENTINEL MASTERS lists those that there are)"
        ))
    })?;
    Ok(Host { name, port })
}

/// Which servers of a cluster hold our names, and which of them which.
#[derive(Debug)]
struct Topology {
    hosts: Vec<Host>,
    of_partition: [usize; PARTITIONS],
    of_control: usize,
}

/// Asks the hosts of the URL, one after the other, which server holds which of our names.
async fn topology(address: &Address, names: &Names) -> Result<Topology, BrokerError> {
    let mut first = None;
    for host in &address.hosts {
        match ask_cluster(address, host, names).await {
            Ok(topology) => return Ok(topology),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| BrokerError("broker.url names no host".to_owned())))
}

async fn ask_cluster(
    address: &Address,
    host: &Host,
    names: &Names,
) -> Result<Topology, BrokerError> {
    let trouble = |error: RedisError| explain(host, "asking the cluster", &error);
    let client = address.client(host).map_err(trouble)?;
    let connection = client.get_multiplexed_async_connection_with_config(&settings()).await;
    let mut connection = connection.map_err(trouble)?;
    // A replica knows as well who holds what.
    greet(host, &mut connection).await?.is("cluster")?;
    let mut ask = redis::pipe();
    for name in names.said.iter().chain([&names.control]) {
        ask.cmd("CLUSTER").arg("KEYSLOT").arg(name);
    }
    let slots: Vec<u16> = ask.query_async(&mut connection).await.map_err(trouble)?;
    let ranges: Value =
        redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.map_err(trouble)?;
    assign(&slots, &read_ranges(ranges, host), host)
}

/// Finds the server of each slot: those of the partitions, then that of the control lane.
fn assign(
    slots: &[u16],
    ranges: &[(u16, u16, Host)],
    asked: &Host,
) -> Result<Topology, BrokerError> {
    let mut hosts = Vec::new();
    let mut index_of = |slot: u16| -> Result<usize, BrokerError> {
        let range = ranges.iter().find(|(from, to, _)| (*from..=*to).contains(&slot));
        let (_, _, holder) = range.ok_or_else(|| {
            BrokerError(format!(
                "redis at {asked}: no server of the cluster holds slot {slot}: see CLUSTER INFO"
            ))
        })?;
        Ok(hosts.iter().position(|known| known == holder).unwrap_or_else(|| {
            hosts.push(holder.clone());
            hosts.len() - 1
        }))
    };
    let mut of_partition = [0; PARTITIONS];
    for (index, slot) in of_partition.iter_mut().zip(slots) {
        *index = index_of(*slot)?;
    }
    let of_control = index_of(slots.last().copied().unwrap_or(0))?;
    Ok(Topology { hosts, of_partition, of_control })
}

/// Reads `CLUSTER SLOTS`: first slot, last slot, primary, of each range.
fn read_ranges(answer: Value, asked: &Host) -> Vec<(u16, u16, Host)> {
    let Value::Array(ranges) = answer else { return Vec::new() };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let read = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [from, to, Value::Array(primary), ..] = &range[..] else { return None };
        let [name, port, ..] = &primary[..] else { return None };
        let name = match name {
            Value::BulkString(name) => String::from_utf8_lossy(name).into_owned(),
            Value::SimpleString(name) => name.clone(),
            _ => String::new(),
        };
        // A server that does not know its own address leaves it out: it is the one that was asked.
        let known = !name.is_empty() && name != "?";
        let name = if known { name } else { asked.name.clone() };
        Some((number(from)?, number(to)?, Host { name, port: number(port)? }))
    };
    ranges.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host { name: "box".into(), port: 1 }
    }

    #[test]
    fn an_old_server_a_replica_and_another_kind_are_refused_with_the_remedy() {
        let judged = |version: &str, mode: &str, role: &str, wanted: &str| {
            let (version, mode, role) = (version.into(), mode.into(), role.into());
            Greeting { host: &host(), version, mode, role }.is_primary(wanted)
        };
        assert_eq!(judged("7.0.15", "standalone", "master", "standalone"), Ok(()));
        assert_eq!(judged("8.1.0", "cluster", "master", "cluster"), Ok(()));
        assert_eq!(judged("7.2.4", "sentinel", "", "sentinel"), Ok(()));
        for (version, mode, role, kind, remedy) in [
            ("6.2.14", "standalone", "master", "standalone", "needs 7 or later"),
            ("7.0.15", "cluster", "master", "standalone", "redis+cluster://"),
            ("7.0.15", "standalone", "master", "cluster", "redis://HOST:PORT"),
            ("7.0.15", "standalone", "replica", "standalone", "redis+sentinel://"),
        ] {
            let error = judged(version, mode, role, kind).expect_err(remedy);
            assert!(error.0.contains(remedy), "{error}");
            assert!(error.0.contains(version) || !remedy.contains('7'), "{error}");
        }
    }

    #[test]
    fn the_servers_of_a_cluster_are_read_and_one_without_an_address_is_the_asked() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |from, to, name, port| {
            let primary = Value::Array(vec![text(name), Value::Int(port), text("id")]);
            Value::Array(vec![Value::Int(from), Value::Int(to), primary])
        };
        let answer = Value::Array(vec![range(0, 99, "a", 7), range(100, 16383, "", 8)]);
        let read = read_ranges(answer, &host());
        assert_eq!(read[0], (0, 99, Host { name: "a".into(), port: 7 }));
        assert_eq!(read[1], (100, 16383, Host { name: "box".into(), port: 8 }));
        assert_eq!(read_ranges(Value::Nil, &host()), []);

        let mut slots = [50; PARTITIONS + 1];
        slots[3] = 16383;
        slots[PARTITIONS] = 100;
        let found = assign(&slots, &read, &host()).expect("all are held");
        assert_eq!(found.hosts.len(), 2);
        assert_eq!((found.of_partition[2], found.of_partition[3], found.of_control), (0, 1, 1));
        let error = assign(&slots, &read[..1], &host()).expect_err("half of them");
        assert!(error.0.contains("slot 16383"), "{error}");
    }
}
