//! What the members of rooms that span several servers have to have heard.
//!
//! In:    the clients' logs, what the hub has carried.
//! Out:   nothing, or a panic.
//! Never: looks into a server, but for a room's members and its newest offset, at rest.
//!
//! # Invariants
//! - An offset of an epoch is one message, for everybody who hears it; the bytes are what was said.
//! - A member hears every offset behind the one that `joined` named, each once and in order, its
//!   own left out where it asked for that; behind another `joined` it counts anew.
//! - A speaker's messages are heard in the order in which it said them, each at most once; at rest,
//!   what it said was heard or it was told `unavailable`.
//! - `local_first`: what a member hears from other servers is the end of what the hub has carried
//!   to its room, whole and in order. `ordered`: its newest place is the log's.
//! - At rest every server counts the same members in a room: all of them; and whoever is said to be
//!   in a room is, and the other way round.

use std::collections::BTreeMap;

use ringhall::bridge::Delivery;
use ringhall::bridge::envelope::{self, Body};
use ringhall::id::{Mode, RoomKey};
use ringhall::room::hall::Role as HallRole;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::log::{Entry, json_id, raw_id};
use crate::oracle::{Id, payload_of};
use crate::oracle_raw;
use crate::run::Sim;
use crate::script::Role;

/// By epoch: its room, and who said what at which offset.
type Orders<'a> = BTreeMap<&'a str, (usize, BTreeMap<u64, Id>)>;

/// Judges everything, at rest; `all` where all servers run, and every message has arrived.
pub fn check(cluster: &Cluster, all: bool) {
    let clients = cluster.clients();
    let mut orders = Orders::new();
    for client in &clients {
        note_order(&clients, client, &mut orders);
    }
    for (at, server) in cluster.servers.iter().enumerate() {
        for client in &server.clients {
            let Role::Member { room, mode, .. } = client.script.role else { continue };
            check_speakers(&clients, client);
            if mode == Mode::Json {
                check_offsets(client, &orders);
            }
            if all && client.is_alive() {
                let key = &server.rooms[room];
                check_complete(cluster, at, client, key, &orders);
            }
        }
    }
    check_raw_orders(cluster);
    check_members(cluster);
    check_announcements(cluster);
}

fn is_deaf(client: &Client) -> bool {
    matches!(client.script.role, Role::Member { deaf: true, .. })
}

/// What a member heard, by epoch, for all to agree on.
fn note_order<'a>(clients: &[&'a Client], client: &'a Client, orders: &mut Orders<'a>) {
    let Role::Member { room, .. } = client.script.role else { return };
    let Some((mut epoch, _)) = client.log.joined.as_ref().map(|(e, o)| (e.as_str(), *o)) else {
        return;
    };
    for entry in &client.log.entries {
        match entry {
            Entry::Renumbered { epoch: next, .. } => epoch = next,
            Entry::Said { offset, by, n, payload } => {
                let wanted = payload_of(clients[*by], room, &client.room, *n, *offset);
                assert!(*payload == wanted, "client {}: other bytes", client.id);
                let order = orders.entry(epoch).or_insert_with(|| (room, BTreeMap::new()));
                let known = *order.1.entry(*offset).or_insert((*by, *n));
                assert_eq!(known, (*by, *n), "client {}: another message {offset}", client.id);
                assert_eq!(order.0, room, "epoch {epoch} names two rooms");
            }
            _ => {}
        }
    }
}

/// What a member heard, in order.
fn heard(client: &Client) -> Vec<Id> {
    let json = client.log.entries.iter().filter_map(|entry| match entry {
        Entry::Said { by, n, .. } => Some((*by, *n)),
        _ => None,
    });
    json.chain(client.log.heard.iter().map(|entry| (entry.by, entry.n))).collect()
}

fn check_speakers(clients: &[&Client], client: &Client) {
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    for (by, n) in heard(client) {
        let next = next.entry(by).or_default();
        assert!(n >= *next, "client {}: message {n} of client {by} behind {next}", client.id);
        assert!(!is_deaf(client) || by != client.id, "client {} hears itself", client.id);
        *next = n + 1;
        assert!(n < clients[by].log.said.len(), "client {by} did not say {n}");
    }
    for entry in &client.log.heard {
        let said = &clients[entry.by].log.said[entry.n];
        assert_eq!((said.0, &said.1), (entry.opcode, &entry.payload), "other bytes");
    }
}

/// Offsets follow each other.
fn check_offsets(client: &Client, orders: &Orders<'_>) {
    let Some((epoch, joined_at)) = &client.log.joined else { return };
    let (mut epoch, mut last) = (epoch.as_str(), *joined_at);
    for entry in &client.log.entries {
        match entry {
            Entry::Renumbered { epoch: next, offset } => {
                assert_ne!(next, epoch, "client {}: the same epoch anew", client.id);
                (epoch, last) = (next, *offset);
            }
            Entry::Said { offset, .. } => {
                assert!(*offset > last, "client {}: {offset} behind {last}", client.id);
                for missing in last + 1..*offset {
                    let own = may_be_own(client, epoch, missing, orders);
                    assert!(own, "client {} misses {missing} of {epoch}", client.id);
                }
                last = *offset;
            }
            Entry::Lag { .. } => panic!("client {} lags, against the policy", client.id),
            _ => {}
        }
    }
}

fn may_be_own(client: &Client, epoch: &str, offset: u64, orders: &Orders<'_>) -> bool {
    let known = orders.get(epoch).and_then(|(_, order)| order.get(&offset));
    is_deaf(client) && known.is_none_or(|(by, _)| *by == client.id)
}

fn check_complete(
    cluster: &Cluster,
    server: usize,
    client: &Client,
    key: &RoomKey,
    orders: &Orders<'_>,
) {
    let id = client.id;
    if key.mode == Mode::Json {
        let (epoch, last) = newest_of(client);
        let (room_epoch, room_offset) = place_of(&cluster.servers[server], key);
        assert_eq!(epoch, room_epoch, "client {id} was not told of the room's numbering");
        for missing in last + 1..=room_offset {
            let own = may_be_own(client, epoch, missing, orders);
            assert!(own, "client {id} waits for {missing} of {epoch} in vain");
        }
    }
    let mine = heard(client).iter().filter(|(by, _)| *by == id).count();
    let (said, unavailable) = (client.log.said.len(), client.log.unavailable);
    if !is_deaf(client) && (key.mode == Mode::Json || !cluster.lossy) {
        assert_eq!(mine + unavailable, said, "client {id}: heard, refused, and said");
    }
    match cluster.delivery {
        Delivery::LocalFirst => check_carried(cluster, server, client, key),
        Delivery::Ordered => check_logged(cluster, server, client, key),
    }
}

/// Where a member's numbering is.
fn newest_of(client: &Client) -> (&str, u64) {
    let (epoch, joined_at) = client.log.joined.as_ref().expect("it is open");
    let mut newest = (epoch.as_str(), *joined_at);
    for entry in &client.log.entries {
        match entry {
            Entry::Renumbered { epoch, offset } => newest = (epoch, *offset),
            Entry::Said { offset, .. } => newest.1 = *offset,
            _ => {}
        }
    }
    newest
}

/// Where a room's numbering is, at its home on one server.
fn place_of<'a>(server: &'a Sim, key: &RoomKey) -> (&'a str, u64) {
    let home = server.host.shared.home(key).index();
    let hall = server.host.look(home).halls().peek(key).expect("a room with members");
    match &hall.role {
        HallRole::Home(home) => (home.room.epoch().as_str(), home.room.offset()),
        HallRole::Outpost(_) => panic!("{key} lives elsewhere"),
    }
}

/// What came from other servers is the end of what was carried here.
fn check_carried(cluster: &Cluster, server: usize, client: &Client, key: &RoomKey) {
    let here = &cluster.servers[server].clients;
    let is_here = |by: usize| here.iter().any(|client| client.id == by);
    let remote: Vec<_> = heard(client).into_iter().filter(|(by, _)| !is_here(*by)).collect();
    let carried: Vec<_> = cluster.hub.told(server, key).iter().map(|bytes| id_of(bytes)).collect();
    let fits = carried.ends_with(&remote);
    assert!(fits, "client {}: {remote:?} is no end of {carried:?}", client.id);
}

fn id_of(bytes: &[u8]) -> Id {
    let Ok(Body::Said(said)) = envelope::read(bytes).map(|read| read.body) else {
        panic!("the hub carries envelopes");
    };
    match said.mode {
        Mode::Raw => raw_id(said.content),
        Mode::Json => json_id(&serde_json::from_slice(said.content).expect("content is JSON")),
    }
}

/// A member's newest place is the log's, where that has one of the room.
fn check_logged(cluster: &Cluster, server: usize, client: &Client, key: &RoomKey) {
    let Some(place) = cluster.hub.newest(key) else { return };
    if key.mode == Mode::Json && place.offset > 0 {
        let (own, last) = newest_of(client);
        let offset = place.offset;
        if own != place.epoch.as_str() {
            // The room was opened in an outage, and nobody has said anything since.
            let told = cluster.hub.told(server, key);
            return assert!(told.is_empty(), "client {} does not know {place:?}", client.id);
        }
        assert!(is_deaf(client) || last == offset, "client {}: {last} of {offset}", client.id);
    }
}

/// Members of a raw room hear one order: on one server, or (ordered) on all.
fn check_raw_orders(cluster: &Cluster) {
    let rooms = &cluster.servers[0].rooms;
    for (index, _) in rooms.iter().enumerate().filter(|(_, key)| key.mode == Mode::Raw) {
        let is_in = |client: &&Client| match client.script.role {
            Role::Member { room, .. } => room == index,
            _ => false,
        };
        if cluster.delivery == Delivery::Ordered {
            let all: Vec<_> = cluster.clients().into_iter().filter(is_in).collect();
            oracle_raw::check_one_order(&all);
        } else {
            for server in &cluster.servers {
                let all: Vec<_> = server.clients.iter().filter(is_in).collect();
                oracle_raw::check_one_order(&all);
            }
        }
    }
}

/// Every server that has the room counts everybody's members.
fn check_members(cluster: &Cluster) {
    let running = &cluster.servers[cluster.ended..];
    for key in running.first().map_or(&[][..], |server| &server.rooms) {
        if key.mode == Mode::Raw {
            continue;
        }
        let counts: Vec<_> = running.iter().filter_map(|server| members_of(server, key)).collect();
        let all: usize = counts.iter().map(|(here, _)| here).sum();
        for (here, everywhere) in &counts {
            assert_eq!(*everywhere, all, "{key}: {here} of {counts:?} are here");
        }
    }
}

/// Members here and on all servers, as the room's home on one server has it.
fn members_of(server: &Sim, key: &RoomKey) -> Option<(usize, usize)> {
    let home = server.host.shared.home(key).index();
    match &server.host.look(home).halls().peek(key)?.role {
        HallRole::Home(home) => Some((home.room.members(), home.room.members_everywhere())),
        HallRole::Outpost(_) => None,
    }
}

/// Users join and leave in turn; those are in who are.
fn check_announcements(cluster: &Cluster) {
    let clients = cluster.clients();
    let plan = &cluster.servers[0].plan;
    if plan.limits.announce_max < clients.len() {
        return;
    }
    for client in &clients {
        let mut is_in: BTreeMap<&str, bool> = BTreeMap::new();
        for entry in &client.log.entries {
            let (user, joins) = match entry {
                Entry::Joined(user) => (user, true),
                Entry::Left(user) => (user, false),
                Entry::Summary { .. } => panic!("a summary in a small room: {entry:?}"),
                _ => continue,
            };
            let before = is_in.insert(user, joins);
            assert!(before != Some(joins), "client {}: {user} twice", client.id);
        }
        if client.is_alive() {
            for (user, is_in) in is_in {
                check_user(cluster, client, user, is_in);
            }
        }
    }
}

fn check_user(cluster: &Cluster, client: &Client, user: &str, is_in: bool) {
    let Role::Member { room, .. } = client.script.role else { return };
    let mut here = cluster.servers.iter().flat_map(|server| {
        let sockets = server.world.borrow();
        let is_user = |other: &&Client| match &other.script.role {
            Role::Member { room: theirs, user: name, .. } => *theirs == room && name == user,
            _ => false,
        };
        let states = server.clients.iter().filter(is_user).map(|other| {
            let open = other.socket.is_some_and(|socket| !sockets.sockets[socket].server_closed);
            (open, other.is_alive())
        });
        states.collect::<Vec<_>>()
    });
    if is_in {
        assert!(here.any(|(open, _)| open), "client {}: {user} is gone, untold", client.id);
    } else {
        assert!(!here.any(|(_, alive)| alive), "client {}: {user} is in, untold", client.id);
    }
}
