//! Relations between keys that must hold before any socket is opened.
//!
//! In:    a configuration whose values are each in range.
//! Out:   what cannot be, and what to do about it.
//! Never: changes a value to make it fit.

use std::net::SocketAddr;

use super::{Broker, Config, Placement};
use crate::bridge::{Delivery, Overflow};
use crate::limits::{BUFFERS_BYTES_MAX, Spread};

/// Longest message that any broker takes as it is installed, its envelope included in the 1 MiB.
const BROKER_MESSAGE_BYTES: usize = 960 << 10;
/// Shortest key that may guard an admin listener off loopback: 8 random letters take a guesser
/// years at thousands of tries a second.
const KEY_BYTES_OFF_LOOPBACK: usize = 8;

/// A relation between keys.
pub(super) struct Combination {
    /// The keys that it relates.
    pub keys: &'static [&'static str],
    /// What is wrong, and the remedy, where it does not hold. Whichever key was set last stands in
    /// front of it, so the text names its own subject.
    pub broken: fn(&Config) -> Option<String>,
}

/// `remedy` where `holds` is not so.
fn unless(holds: bool, remedy: &str) -> Option<String> {
    (!holds).then(|| remedy.to_owned())
}

/// All relations.
pub(super) static COMBINATIONS: &[Combination] = &[
    Combination {
        keys: &["heartbeat.ping_after", "heartbeat.timeout"],
        broken: |c| {
            unless(
                c.limits.ping_after < c.limits.heartbeat_timeout,
                "heartbeat.ping_after must be a shorter time than heartbeat.timeout, or a silent \
                 client is closed before it is pinged: lower ping_after or raise timeout",
            )
        },
    },
    Combination {
        keys: &["rooms.tick_bytes", "client.queue_bytes"],
        broken: |c| {
            unless(
                c.limits.room_tick_bytes <= c.limits.queue_bytes / 2,
                "rooms.tick_bytes may be at most half of client.queue_bytes, or two turns of one \
                 room cut readers that keep up: lower rooms.tick_bytes or raise client.queue_bytes",
            )
        },
    },
    Combination {
        keys: &["client.message_bytes", "limits.queue_bytes"],
        broken: |c| {
            unless(
                c.limits.message_bytes <= c.limits.queue_bytes_total,
                "one message must fit the budget of all queues: lower client.message_bytes or \
                 raise limits.queue_bytes",
            )
        },
    },
    Combination {
        keys: &["client.queue_bytes", "limits.queue_bytes"],
        broken: |c| {
            unless(
                c.limits.queue_bytes <= c.limits.queue_bytes_total,
                "one queue must fit the budget of all queues: lower client.queue_bytes or raise \
                 limits.queue_bytes",
            )
        },
    },
    Combination {
        keys: &["echo.enabled", "echo.message_bytes", "limits.queue_bytes"],
        broken: |c| {
            unless(
                !c.limits.echo_enabled || c.limits.echo_message_bytes <= c.limits.queue_bytes_total,
                "one echoed message must fit the budget of all queues: lower echo.message_bytes, \
                 raise limits.queue_bytes or set echo.enabled = false",
            )
        },
    },
    Combination {
        keys: &["server.mesh_bytes", "client.message_bytes"],
        broken: |c| {
            unless(
                c.mesh_bytes >= c.limits.message_bytes,
                "one message must fit a queue between shards: raise server.mesh_bytes or lower \
                 client.message_bytes",
            )
        },
    },
    Combination {
        keys: &["server.mesh_bytes", "rooms.tick_bytes"],
        broken: |c| {
            unless(
                c.mesh_bytes >= c.limits.room_tick_bytes,
                "what a room sends in one turn must fit a queue between shards: raise \
                 server.mesh_bytes or lower rooms.tick_bytes",
            )
        },
    },
    Combination {
        keys: &["server.placement", "rooms.spread"],
        broken: |c| {
            unless(
                !(c.placement == Placement::Accept && c.limits.spread == Spread::Never),
                "members that stay where they were accepted make rooms spread: set \
                 server.placement = \"home\", or rooms.spread to \"auto\" or \"always\"",
            )
        },
    },
    Combination {
        keys: &["server.proxy_protocol", "server.trusted_proxies"],
        broken: |c| {
            unless(
                !c.proxy_protocol || !c.trusted_proxies.is_empty(),
                "a PROXY protocol header is believed from trusted proxies alone, and none is \
                 named: set server.trusted_proxies to their addresses, or server.proxy_protocol \
                 = false",
            )
        },
    },
    Combination {
        keys: &["ring.entries"],
        broken: |c| {
            unless(
                c.ring.entries.is_power_of_two(),
                "the kernel makes rings of a power of two: set ring.entries to 256, 512, 1024, \
                 2048, 4096 or 8192",
            )
        },
    },
    Combination {
        keys: &["ring.stride", "ring.entries"],
        broken: |c| {
            unless(
                c.ring.stride <= c.ring.entries / 2,
                "one submission carries a stride's receives and the echoes of the one before: \
                 lower ring.stride to at most half of ring.entries, or raise ring.entries",
            )
        },
    },
    Combination {
        keys: &["ring.buffers", "ring.buffer_bytes"],
        broken: |c| {
            unless(
                c.ring.buffers * c.ring.buffer_bytes <= BUFFERS_BYTES_MAX,
                "ring.buffers times ring.buffer_bytes is memory that is taken at start, at most \
                 1GiB: lower one of them",
            )
        },
    },
    Combination { keys: &["admin.listen", "admin.key"], broken: admin_off_loopback },
    Combination { keys: &["broker.url"], broken: broker_not_built_in },
    Combination {
        keys: &["broker.url", "broker.delivery"],
        broken: |c| {
            let has_log = c.broker_url.as_ref().is_none_or(|url| url.broker() != Broker::RabbitMq);
            unless(
                has_log || c.broker_delivery == Delivery::LocalFirst,
                "RabbitMQ has no log that could give the order of a room: set broker.delivery = \
                 \"local_first\", or take Redis, NATS or Kafka",
            )
        },
    },
    Combination {
        keys: &["broker.delivery", "broker.overflow"],
        broken: |c| {
            unless(
                c.broker_delivery == Delivery::LocalFirst || c.broker_overflow == Overflow::Reject,
                "with broker.delivery = \"ordered\" nobody hears what the broker has not taken, so \
                 there is nobody to drop it for: set broker.overflow = \"reject\"",
            )
        },
    },
    Combination {
        keys: &["broker.url", "broker.required"],
        broken: |c| {
            unless(
                c.broker_url.is_some() || !c.broker_required,
                "broker.required is about a broker, and there is none: set broker.url, or \
                 broker.required = false",
            )
        },
    },
    Combination {
        keys: &["broker.url", "broker.delivery"],
        broken: |c| {
            unless(
                c.broker_url.is_some() || c.broker_delivery == Delivery::LocalFirst,
                "broker.delivery = \"ordered\" is a broker's log, and there is no broker: set \
                 broker.url, or broker.delivery = \"local_first\"",
            )
        },
    },
    Combination {
        keys: &["broker.url", "client.message_bytes"],
        broken: |c| {
            unless(
                c.broker_url.is_none() || c.limits.message_bytes <= BROKER_MESSAGE_BYTES,
                "with a broker, client.message_bytes is at most 960KiB: NATS and Kafka take a \
                 message of 1 MiB where nobody has set them otherwise, and what a broker refuses \
                 no other box hears: lower client.message_bytes, or set broker.url = \"none\"",
            )
        },
    },
    Combination { keys: &["broker.url", "broker.ca"], broken: authorities_without_tls },
    Combination { keys: &["broker.ca"], broken: unreadable_authorities },
    Combination { keys: &["server.listen", "admin.listen"], broken: same_address },
    Combination { keys: &["server.listen"], broken: listens_twice },
    Combination { keys: &["static.dir"], broken: unreadable_folder },
];

/// SPEC section 4: the key "must be set before the listener may leave loopback".
fn admin_off_loopback(c: &Config) -> Option<String> {
    if c.admin_listen.ip().to_canonical().is_loopback() {
        return None;
    }
    let Some(key) = &c.admin_key else {
        let text = "admin.listen is not loopback, and whoever reaches it administers the server: \
                    set admin.key (such as what `openssl rand -hex 24` prints), or listen on \
                    127.0.0.1";
        return Some(text.to_owned());
    };
    unless(
        key.expose().len() >= KEY_BYTES_OFF_LOOPBACK,
        "admin.listen is not loopback, so admin.key must have 8 characters or more: take what \
         `openssl rand -hex 24` prints",
    )
}

fn same_address(c: &Config) -> Option<String> {
    let clash = c.listen.iter().find(|public| overlap(**public, c.admin_listen))?;
    Some(format!(
        "the public listener {clash} and the admin listener {} are one address: give one of them \
         another port",
        c.admin_listen
    ))
}

/// Whether two listeners would take the same port of the same interface.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // `[::]` takes IPv4 too.
    let takes = |all: SocketAddr, one: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    let one_interface = a.ip() == b.ip() || takes(a, b) || takes(b, a);
    a.port() != 0 && a.port() == b.port() && one_interface
}

/// The second would find the port taken, by us.
fn listens_twice(c: &Config) -> Option<String> {
    let all = c.listen.iter().enumerate();
    let mut pairs = all.flat_map(|(at, a)| c.listen[at + 1..].iter().map(move |b| (*a, *b)));
    let (a, b) = pairs.find(|(a, b)| overlap(*a, *b))?;
    Some(format!(
        "{a} and {b} take the same port: leave one of them out ([::] is every address, those of \
         IPv4 too; 0.0.0.0 every one of IPv4)"
    ))
}

fn unreadable_folder(c: &Config) -> Option<String> {
    let folder = c.static_dir.as_ref()?;
    let error = std::fs::read_dir(folder).err()?;
    Some(format!(
        "the folder {} cannot be read ({error}): name a folder that this user may read, or \
         \"none\" for the built-in page",
        folder.display()
    ))
}

fn broker_not_built_in(c: &Config) -> Option<String> {
    let broker = c.broker_url.as_ref()?.broker();
    let feature = broker.feature();
    unless(
        broker.is_built_in(),
        &format!(
            "this binary was built without {broker:?}: build it with `--features {feature}`, or \
             with the default features, which have all brokers"
        ),
    )
}

fn authorities_without_tls(c: &Config) -> Option<String> {
    let url = c.broker_url.as_ref()?;
    unless(
        c.broker_ca.is_none() || url.has_tls(),
        "broker.ca is for TLS, and the URL's scheme has none: write rediss://, tls://, amqps:// or \
         kafka+tls://, or set broker.ca = \"none\"",
    )
}

fn unreadable_authorities(c: &Config) -> Option<String> {
    let file = c.broker_ca.as_ref()?;
    // No pipe is waited for: a certificate stands in a regular file.
    let is_file = std::fs::metadata(file).map(|metadata| metadata.is_file());
    let problem = match is_file {
        Ok(true) => std::fs::read_to_string(file).err().map(|error| error.to_string()),
        Ok(false) => Some("it is no regular file".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    Some(format!(
        "the file {} cannot be read ({}): name a PEM file that this user may read, or \"none\" for \
         the usual authorities",
        file.display(),
        problem?
    ))
}
