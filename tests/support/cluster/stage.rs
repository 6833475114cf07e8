//! A broker, three nodes around it, a load on them, and the faults of a test.
//!
//! In:    a broker, a delivery; whether the nodes reach the broker through a proxy.
//! Out:   a verdict of the whole, in which each message that was missed is explained.
//! Never: ends without judging everything that was said.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringhall::bridge::Delivery;

use super::book::{Book, Micros};
use super::check::{Counted, Fault, Trial, Verdict};
use super::load::Load;
use super::nodes::Cluster;
use super::watch::Watch;
use super::{check_local_first, check_ordered, check_presence};
use crate::brokers::Broker;
use crate::brokers::proxy::Proxy;
use crate::support::{DEADLINE, eventually};

/// Messages said so long before a fault have arrived.
const ARRIVAL: Duration = Duration::from_millis(300);
/// How long counters may take to tell the last of it: two heartbeats, and time to spare.
const COUNTED_WITHIN: Duration = Duration::from_secs(8);

/// A number for every stage of a process, so that none meets another's leavings at the broker.
static STAGES: AtomicU64 = AtomicU64::new(0);

/// How the nodes reach the broker.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The proxy in between, where there is one.
    pub proxy: Option<&'a Proxy>,
}

/// All of it.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    /// What goes on in their rooms.
    pub load: Load,
    /// Who is well.
    pub watch: Watch,
    delivery: Delivery,
    before: Vec<Option<Counted>>,
    faults: Vec<Fault>,
    emptied: bool,
}

/// A name of its own at the broker for everything of one stage.
pub fn prefix() -> String {
    format!("stage{}", STAGES.fetch_add(1, Ordering::Relaxed))
}

/// Where the nodes find the broker.
pub fn url(broker: &dyn Broker, way: Way<'_>) -> String {
    broker.url(way.proxy.map_or_else(|| broker.address(), Proxy::address))
}

impl Stage {
    /// Starts nodes and load; everybody is in, and everybody knows of everybody.
    ///
    /// # Panics
    /// If that does not come to pass.
    #[track_caller]
    pub fn set(broker: &dyn Broker, way: Way<'_>, delivery: Delivery) -> Self {
        let prefix = format!("broker.prefix={}", prefix());
        let cluster = Cluster::start(&url(broker, way), delivery, &[&prefix]);
        let addresses: Vec<SocketAddr> =
            cluster.living().map(|node| cluster.address(node)).collect();
        let admins = cluster.living().map(|node| (node, cluster.server(node).admin()));
        let watch = Watch::start(admins.collect());
        let load = Load::start(&addresses);
        let before = cluster.living().map(|node| cluster.counted(node)).collect();
        let stage =
            Self { cluster, load, watch, delivery, before, faults: Vec::new(), emptied: false };
        stage.wait_announced(DEADLINE);
        stage.load.begin();
        stage
    }

    /// Waits until everybody has been told who came and who was killed.
    ///
    /// # Panics
    /// If they are not.
    #[track_caller]
    pub fn wait_announced(&self, deadline: Duration) {
        eventually(deadline, "everybody has been told of everybody", || {
            self.load.read(check_presence::complete)
        });
    }

    /// Adds a node in the place of one that was killed, and fills it.
    #[track_caller]
    pub fn start_again(&mut self, listen: SocketAddr) -> usize {
        let node = self.cluster.start_again(listen);
        self.cluster.wait_together();
        self.before.push(Some(Counted::default()));
        let same = self.load.add_node(self.cluster.address(node));
        assert_eq!(same, node, "nodes are numbered alike");
        node
    }

    /// Waits until a node is seen in this state, from `after` on; how long after.
    ///
    /// # Panics
    /// If it is not within the deadline.
    #[track_caller]
    pub fn wait_status(&self, node: usize, status: &str, after: Instant) -> Duration {
        let mut at = None;
        eventually(DEADLINE, &format!("node {node} is {status}"), || {
            at = self.watch.first(node, status, after);
            at.is_some()
        });
        at.expect("just seen").saturating_duration_since(after)
    }

    /// Writes down that a node could not reach the broker from `struck` on, and noticed.
    ///
    /// # Panics
    /// If it does not notice.
    #[track_caller]
    pub fn fault(&mut self, what: &'static str, node: usize, struck: Instant) -> Duration {
        let after = self.wait_status(node, "degraded", struck);
        let from = self.load.time_of(struck.checked_sub(ARRIVAL).unwrap_or(struck));
        let noticed = self.load.time_of(struck + after);
        let struck = self.load.time_of(struck);
        self.faults.push(Fault { what, node, from, struck, noticed, until: Micros::MAX });
        after
    }

    /// Writes down that a node is well again; how long after `mended`.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn over(&mut self, node: usize, mended: Instant) -> Duration {
        let after = self.wait_status(node, "healthy", mended);
        let until = self.load.time_of(mended + after);
        let open = self.faults.iter_mut().filter(|fault| fault.node == node);
        for fault in open.filter(|fault| fault.until == Micros::MAX) {
            fault.until = until;
        }
        after
    }

    /// Says that the broker came back without its log.
    pub fn lost_its_log(&mut self) {
        self.emptied = true;
    }

    /// Rests, waits until everything has arrived or was counted, and judges.
    ///
    /// # Panics
    /// If anything is not as promised.
    #[track_caller]
    #[expect(clippy::print_stderr, reason = "the harness shows the account where asked")]
    pub fn conclude(&self) -> Book {
        self.load.settle();
        let until = Instant::now() + COUNTED_WITHIN;
        loop {
            let book = self.load.book();
            let verdict = self.judge(&book);
            if verdict.problems.is_empty() {
                eprint!("{verdict}");
                return book;
            }
            assert!(Instant::now() < until, "\n{verdict}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn judge(&self, book: &Book) -> Verdict {
        let counted: Vec<Option<Counted>> = (0..book.nodes.len())
            .map(|node| {
                let (now, before) = (self.cluster.counted(node)?, self.before[node]?);
                Some(Counted {
                    gaps: now.gaps - before.gaps,
                    dropped: now.dropped - before.dropped,
                    rejected: now.rejected - before.rejected,
                })
            })
            .collect();
        let trial = Trial { book, counted: &counted, faults: &self.faults };
        let mut verdict = match self.delivery {
            Delivery::LocalFirst => check_local_first::judge(&trial),
            Delivery::Ordered => check_ordered::judge(&trial, self.emptied),
        };
        check_presence::judge(book, &self.faults, &mut verdict);
        for node in self.cluster.living() {
            let broker = self.cluster.broker(node);
            let (duplicates, reconnects) = (&broker["duplicates"], &broker["reconnects"]);
            verdict
                .account
                .push(format!("node {node}: {duplicates} duplicates, {reconnects} reconnects"));
        }
        verdict
    }

    /// p99 of the time that a message took to members on its speaker's box, of those said between.
    pub fn local_p99(&self, from: Micros, until: Micros) -> Micros {
        let mut times = self.load.read(|book| local_times(book, from, until));
        times.sort_unstable();
        assert!(!times.is_empty(), "nobody heard anything between {from} and {until} us");
        times[(times.len() - 1) * 99 / 100]
    }
}

fn local_times(book: &Book, from: Micros, until: Micros) -> Vec<Micros> {
    let mut times = Vec::new();
    for member in &book.members {
        for heard in &member.heard {
            let said = book.speakers[heard.message.speaker].said[heard.message.number];
            if book.home(heard.message.speaker) == member.node && (from..=until).contains(&said) {
                times.push(heard.at - said);
            }
        }
    }
    times
}

/// When the port answers for the first time from now on: looked for on a thread of its own.
///
/// # Panics
/// If it never does; on joining.
pub fn first_answer(address: SocketAddr) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        eventually(DEADLINE * 3, "the broker's port answers", || {
            TcpStream::connect_timeout(&address, DEADLINE).is_ok()
        });
        Instant::now()
    })
}
