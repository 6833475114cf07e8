//! Three real servers around one broker.
//!
//! In:    the broker's URL, one a node where they reach it by different ways; settings.
//! Out:   addresses, `/health` as JSON, what the nodes counted.
//! Never: outlives the test.

use std::net::SocketAddr;

use ringhall::bridge::Delivery;
use rustix::process::Signal;
use serde_json::Value;

use super::check::Counted;
use crate::support::{DEADLINE, Server, eventually};

/// Nodes of a cluster.
pub const NODES: usize = 3;

/// What the configuration calls it.
pub fn word(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::LocalFirst => "local_first",
        Delivery::Ordered => "ordered",
    }
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Option<Server>>,
    settings: Vec<String>,
}

impl Cluster {
    /// Starts all nodes, and waits until each is healthy and knows the others.
    ///
    /// # Panics
    /// If they do not come together.
    #[track_caller]
    pub fn start(url: &str, delivery: Delivery, settings: &[&str]) -> Self {
        let mut all = vec![format!("broker.url={url}"), delivery_setting(delivery)];
        all.extend(settings.iter().map(ToString::to_string));
        let mut cluster = Self { servers: Vec::new(), settings: all };
        for _ in 0..NODES {
            let server = cluster.spawn("127.0.0.1:0");
            cluster.servers.push(Some(server));
        }
        cluster.wait_together();
        cluster
    }

    fn spawn(&self, listen: &str) -> Server {
        let mut command = Server::command();
        command.args(["--listen", listen, "--admin", "127.0.0.1:0"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        Server::spawn(command)
    }

    /// Waits until every living node is healthy and knows all others that live.
    ///
    /// # Panics
    /// If they do not come together.
    #[track_caller]
    pub fn wait_together(&self) {
        let living: Vec<usize> = self.living().collect();
        let mut last = Value::Null;
        eventually(DEADLINE, "every node is healthy and knows the others", || {
            living.iter().all(|&node| {
                last = self.server(node).health();
                is_together(&last, living.len())
            })
        });
    }

    /// Nodes that run.
    pub fn living(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.servers.len()).filter(|node| self.servers[*node].is_some())
    }

    /// A node's process.
    ///
    /// # Panics
    /// If it was killed.
    #[track_caller]
    pub fn server(&self, node: usize) -> &Server {
        self.servers[node].as_ref().expect("it lives")
    }

    /// Where its clients connect.
    #[track_caller]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.server(node).address()
    }

    /// What it says of its broker.
    #[track_caller]
    pub fn broker(&self, node: usize) -> Value {
        self.server(node).health()["dependencies"]["broker"].clone()
    }

    /// What it has counted since its start; `None` where it was killed.
    pub fn counted(&self, node: usize) -> Option<Counted> {
        self.servers[node].as_ref()?;
        let broker = self.broker(node);
        let number = |name: &str| {
            let number = broker[name].as_u64();
            number.unwrap_or_else(|| panic!("no {name} in {broker}"))
        };
        Some(Counted {
            gaps: number("gaps"),
            dropped: number("dropped"),
            rejected: number("rejected"),
        })
    }

    /// Ends a node with SIGKILL.
    ///
    /// # Panics
    /// If it was killed before.
    #[track_caller]
    pub fn kill(&mut self, node: usize) -> SocketAddr {
        let mut server = self.servers[node].take().expect("it lives");
        let address = server.address();
        server.signal(Signal::KILL);
        server.wait(DEADLINE);
        address
    }

    /// Starts another process where a killed one listened; it gets a number of its own.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start_again(&mut self, listen: SocketAddr) -> usize {
        let server = self.spawn(&listen.to_string());
        self.servers.push(Some(server));
        self.servers.len() - 1
    }
}

fn delivery_setting(delivery: Delivery) -> String {
    format!("broker.delivery={}", word(delivery))
}

/// Whether a node's `/health` says that its broker is well, and that it knows so many nodes, itself
/// included.
fn is_together(health: &Value, nodes: usize) -> bool {
    let broker = &health["dependencies"]["broker"];
    broker["state"] == "closed" && broker["nodes"] == nodes
}
