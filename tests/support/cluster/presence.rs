//! Who is there, as a member anywhere in the cluster is told.
//!
//! In:    a broker, a delivery.
//! Out:   a panic that says what was told wrongly.
//! Never: waits for silence: that nothing was announced is seen by what is announced next.

use std::net::SocketAddr;
use std::time::Duration;

use ringhall::bridge::Delivery;

use super::nodes::{Cluster, NODES};
use super::stage::{Way, prefix, url};
use crate::brokers::Broker;
use crate::support::{Client, DEADLINE, End, eventually};

/// What the names of those begin with who only listen.
const OBSERVER: &str = "observer";
/// Members up to which each is announced.
const ANNOUNCE_MAX: usize = 7;
/// Members that a room takes in the whole cluster.
const MEMBERS_MAX: usize = 12;

/// Announcements once in the cluster; counts of the cluster; an outage makes nobody leave.
pub fn run(broker: &mut dyn Broker, way: Way<'_>, delivery: Delivery) {
    let prefix = format!("broker.prefix={}", prefix());
    let settings = [
        prefix.as_str(),
        &format!("rooms.announce_max={ANNOUNCE_MAX}"),
        &format!("rooms.members_max={MEMBERS_MAX}"),
        "rooms.announce_every=100ms",
    ];
    let cluster = Cluster::start(&url(broker, way), delivery, &settings);
    let nodes: Vec<SocketAddr> = (0..NODES).map(|node| cluster.address(node)).collect();
    two_connections_of_one_user_are_announced_once(&nodes);
    a_large_room_counts_the_cluster(&nodes);
    an_outage_makes_nobody_leave(broker, &cluster, &nodes);
}

/// What an observer is told next of who came and went. That another observer came it may hear soon
/// after its own joining, or not: it was on its way.
#[track_caller]
fn told(observer: &mut Client) -> String {
    let is_news = |message: &serde_json::Value| {
        let text = message["content"].as_str().unwrap_or_default();
        message["sender"] == "system" && !text.starts_with(OBSERVER)
    };
    let message = observer.recv_until(is_news).pop();
    message.expect("the last one")["content"].as_str().expect("text").to_owned()
}

#[track_caller]
fn expect_told(observers: &mut [Client], what: &str) {
    for (node, observer) in observers.iter_mut().enumerate() {
        assert_eq!(told(observer), what, "the observer on node {node}");
    }
}

/// An observer on every node.
fn observers(nodes: &[SocketAddr], room: &str) -> Vec<Client> {
    let seats = nodes.iter().enumerate();
    seats
        .map(|(node, &address)| Client::join(address, room, &format!("{OBSERVER}{node}")).0)
        .collect()
}

fn two_connections_of_one_user_are_announced_once(nodes: &[SocketAddr]) {
    let room = "once";
    let mut observers = observers(nodes, room);
    let (first, _) = Client::join(nodes[1], room, "ann");
    expect_told(&mut observers, "ann has joined the room");
    // The second is on another node, and so is who comes after: presence of one node is in order.
    let (second, _) = Client::join(nodes[2], room, "ann");
    let (bob, _) = Client::join(nodes[2], room, "bob");
    expect_told(&mut observers, "bob has joined the room");
    first.close();
    let (carl, _) = Client::join(nodes[1], room, "carl");
    expect_told(&mut observers, "carl has joined the room");
    second.close();
    expect_told(&mut observers, "ann has left the room");
    carl.close();
    expect_told(&mut observers, "carl has left the room");
    bob.close();
    expect_told(&mut observers, "bob has left the room");
}

/// The newest count that a member is told, once it is the one wanted.
#[track_caller]
fn expect_count(member: &mut Client, count: usize) {
    member.recv_until(|message| message["type"] == "members" && message["count"] == count);
}

fn a_large_room_counts_the_cluster(nodes: &[SocketAddr]) {
    let room = "large";
    let mut members: Vec<Client> = Vec::new();
    for number in 0..MEMBERS_MAX {
        let user = format!("m{number}");
        members.push(Client::join(nodes[number % NODES], room, &user).0);
    }
    for member in &mut members {
        expect_count(member, MEMBERS_MAX);
    }
    for &address in nodes {
        let mut late = Client::raw(address);
        let refused = late.upgrade(&format!("/ws/{room}/late"), &[]);
        refused.expect_refusal(503, "room_full");
    }
    // The last four leave, each its node; the others are told how many are left.
    let left = MEMBERS_MAX - 4;
    for member in members.split_off(left) {
        member.close();
    }
    for member in &mut members {
        expect_count(member, left);
    }
}

fn an_outage_makes_nobody_leave(broker: &mut dyn Broker, cluster: &Cluster, nodes: &[SocketAddr]) {
    let room = "outage";
    let mut observers = observers(nodes, room);
    let (ann, _) = Client::join(nodes[0], room, "ann");
    expect_told(&mut observers, "ann has joined the room");
    let (dora, _) = Client::join(nodes[1], room, "dora");
    expect_told(&mut observers, "dora has joined the room");
    let (emil, _) = Client::join(nodes[2], room, "emil");
    expect_told(&mut observers, "emil has joined the room");
    // Presence of one node is in order: now nothing of any of the three is on its way.
    broker.pause();
    for node in 0..NODES {
        eventually(DEADLINE, "the node notices", || cluster.broker(node)["state"] != "closed");
    }
    // Members on her node see her go at once, the others when they can know.
    ann.close();
    assert_eq!(told(&mut observers[0]), "ann has left the room");
    // Longer than it takes to call a silent node dead.
    observers[1].set_deadline(Duration::from_secs(7));
    let heard = observers[1].try_recv();
    assert_eq!(heard, Err(End::TimedOut), "nobody leaves in an outage");
    observers[1].set_deadline(DEADLINE);
    broker.resume();
    cluster.wait_together();
    expect_told(&mut observers[1..], "ann has left the room");
    dora.close();
    expect_told(&mut observers, "dora has left the room");
    emil.close();
    expect_told(&mut observers, "emil has left the room");
}
