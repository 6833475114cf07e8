//! Turns what the server knows about itself into the JSON of `/health` and `/ready`.
//!
//! In:    `Health`, a picture taken by the server when asked.
//! Out:   two views of it: the public one, and the admin's with every counter.
//! Never: judges: the state and the readiness are the server's word.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

/// Whoever can say how the server is.
pub trait HealthSource: Send + Sync {
    /// Takes a picture now; called once a request, so it must not block.
    fn snapshot(&self) -> Health;
}

/// How the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything works.
    Healthy,
    /// It serves, but something that it depends on does not.
    Degraded,
    /// It does not serve.
    Unhealthy,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Whether new connections should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Not yet.
    Starting,
    /// No longer.
    Draining,
    /// Not now: the admission limit is reached.
    Full,
    /// Not now: the broker is required, and out of reach.
    Broker,
}

impl Readiness {
    /// All answers.
    pub const ALL: &[Self] =
        &[Self::Ready, Self::Starting, Self::Draining, Self::Full, Self::Broker];

    /// Why not; `None` where the answer is yes.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Starting => Some("starting"),
            Self::Draining => Some("draining"),
            Self::Full => Some("full"),
            Self::Broker => Some("broker"),
        }
    }
}

/// How one shard is.
#[derive(Clone, Copy, Debug)]
pub struct ShardHealth {
    /// Its number.
    pub id: u16,
    /// Milliseconds since it last took a turn or looked at the clock.
    pub moved_ms_ago: u64,
    /// Whether it moves as it should.
    pub alive: bool,
}

/// Numbers with the names under which people see them, in the order given.
pub type Named = Vec<(&'static str, u64)>;

/// How the broker is that joins several boxes.
#[derive(Clone, Debug)]
pub struct BrokerHealth {
    /// Which broker.
    pub kind: &'static str,
    /// Where its breaker stands: `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// It carries messages.
    pub is_well: bool,
    /// Without it the server is unhealthy (`broker.required`).
    pub is_required: bool,
    /// Since when it carries messages, or does not.
    pub since: Duration,
    /// Its round trip, its queue, what was missed.
    pub numbers: Named,
    /// Why the last connection failed; it names addresses, so it is the operator's alone.
    pub last_error: Option<String>,
}

impl BrokerHealth {
    /// How the server is by it.
    #[must_use]
    pub fn judge(&self) -> State {
        match (self.is_well, self.is_required) {
            (true, _) => State::Healthy,
            (false, false) => State::Degraded,
            (false, true) => State::Unhealthy,
        }
    }

    fn view(&self) -> Value {
        let mut view = json!(Pairs(&self.numbers));
        view["kind"] = json!(self.kind);
        view["state"] = json!(self.state);
        view["since_s"] = json!(self.since.as_secs());
        view["required"] = json!(self.is_required);
        view
    }
}

/// The picture.
#[derive(Clone, Debug)]
pub struct Health {
    /// How the server is.
    pub state: State,
    /// Whether new connections should be sent here.
    pub ready: Readiness,
    /// Since the process started.
    pub uptime: Duration,
    /// Sockets.
    pub connections: u64,
    /// Sockets whose upgrade is complete.
    pub websockets: u64,
    /// Rooms.
    pub rooms: u64,
    /// Every shard.
    pub shards: Vec<ShardHealth>,
    /// The broker, where there is one.
    pub broker: Option<BrokerHealth>,
    /// Every counter, summed over the shards.
    pub counters: Named,
    /// Closes by reason.
    pub closed: Named,
    /// Refusals by reason.
    pub refused: Named,
}

struct Pairs<'a>(&'a [(&'static str, u64)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Health {
    fn shards(&self) -> Value {
        let alive = self.shards.iter().filter(|shard| shard.alive).count();
        let state = match alive {
            all if all == self.shards.len() => "up",
            0 => "down",
            _ => "degraded",
        };
        json!({ "state": state, "total": self.shards.len(), "alive": alive })
    }

    fn broker(&self) -> Value {
        let alone = || json!({ "state": "in_process" });
        self.broker.as_ref().map_or_else(alone, BrokerHealth::view)
    }

    /// What anybody may know.
    #[must_use]
    pub fn public_view(&self) -> Value {
        json!({
            "status": self.state.word(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.uptime.as_secs(),
            "connections": self.connections,
            "rooms": self.rooms,
            "dependencies": { "shards": self.shards(), "broker": self.broker() },
        })
    }

    /// What the operator may know: all of it.
    #[must_use]
    pub fn admin_view(&self) -> Value {
        let mut view = self.public_view();
        let each = self.shards.iter().map(|shard| {
            json!({
                "id": shard.id, "alive": shard.alive, "moved_ms_ago": shard.moved_ms_ago,
            })
        });
        view["ready"] = json!(self.ready == Readiness::Ready);
        view["websockets"] = json!(self.websockets);
        view["dependencies"]["shards"]["each"] = each.collect();
        if let Some(broker) = &self.broker {
            view["dependencies"]["broker"]["last_error"] = json!(broker.last_error);
        }
        view["counters"] = json!(Pairs(&self.counters));
        view["closed"] = json!(Pairs(&self.closed));
        view["refused"] = json!(Pairs(&self.refused));
        view
    }

    fn status(&self) -> StatusCode {
        match self.state {
            State::Healthy | State::Degraded => StatusCode::OK,
            State::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A source of health, as handlers share it.
pub(super) type Source = Arc<dyn HealthSource>;

pub(super) fn answer_public(source: &Source) -> Response {
    let health = source.snapshot();
    fresh(health.status(), health.public_view())
}

pub(super) fn answer_admin(source: &Source) -> Response {
    let health = source.snapshot();
    fresh(health.status(), health.admin_view())
}

pub(super) fn answer_ready(source: &Source) -> Response {
    match source.snapshot().ready.reason() {
        None => fresh(StatusCode::OK, json!({ "ready": true })),
        Some(reason) => {
            fresh(StatusCode::SERVICE_UNAVAILABLE, json!({ "ready": false, "reason": reason }))
        }
    }
}

/// An answer that no cache may keep.
fn fresh(status: StatusCode, view: Value) -> Response {
    let mut response = (status, Json(view)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(alive: [bool; 2]) -> Health {
        let shards = alive
            .iter()
            .zip(0..)
            .map(|(&alive, id)| ShardHealth { id, moved_ms_ago: 7, alive })
            .collect();
        Health {
            state: State::Healthy,
            ready: Readiness::Ready,
            uptime: Duration::from_secs(61),
            connections: 3,
            websockets: 2,
            rooms: 1,
            shards,
            broker: None,
            counters: vec![("accepted", 9)],
            closed: vec![("normal", 4)],
            refused: vec![("not_found", 5)],
        }
    }

    #[test]
    fn the_public_view_names_dependencies_and_hides_counters() {
        let view = health([true, true]).public_view();
        assert_eq!(view["status"], "healthy");
        assert_eq!(view["uptime_s"], 61);
        assert_eq!(view["dependencies"]["shards"]["state"], "up");
        assert_eq!(view["dependencies"]["broker"]["state"], "in_process");
        assert!(view.get("counters").is_none());
    }

    #[test]
    fn the_admin_view_has_every_number() {
        let view = health([true, false]).admin_view();
        assert_eq!(view["counters"]["accepted"], 9);
        assert_eq!(view["closed"]["normal"], 4);
        assert_eq!(view["refused"]["not_found"], 5);
        assert_eq!(view["dependencies"]["shards"]["state"], "degraded");
        assert_eq!(view["dependencies"]["shards"]["each"][1]["alive"], false);
    }

    fn broker(is_well: bool, is_required: bool) -> BrokerHealth {
        BrokerHealth {
            kind: "redis",
            state: if is_well { "closed" } else { "open" },
            is_well,
            is_required,
            since: Duration::from_secs(7),
            numbers: vec![("gaps", 3)],
            last_error: Some("db:6379 refuses".to_owned()),
        }
    }

    #[test]
    fn a_lost_broker_degrades_and_a_required_one_makes_unhealthy() {
        for (is_well, is_required, state, code) in [
            (true, true, State::Healthy, 200),
            (false, false, State::Degraded, 200),
            (false, true, State::Unhealthy, 503),
        ] {
            let broker = broker(is_well, is_required);
            let state_by_it = broker.judge();
            assert_eq!(state_by_it, state);
            let health = Health { state, broker: Some(broker), ..health([true, true]) };
            assert_eq!(health.status().as_u16(), code);
        }
    }

    #[test]
    fn the_brokers_last_error_is_the_operators_alone() {
        let health = Health { broker: Some(broker(false, false)), ..health([true, true]) };
        let view = health.public_view()["dependencies"]["broker"].clone();
        let shown = json!({
            "kind": "redis", "state": "open", "since_s": 7, "required": false, "gaps": 3,
        });
        assert_eq!(view, shown);
        let view = health.admin_view()["dependencies"]["broker"].clone();
        assert_eq!(view["last_error"], "db:6379 refuses");
    }

    #[test]
    fn no_shard_alive_is_down() {
        assert_eq!(health([false, false]).public_view()["dependencies"]["shards"]["state"], "down");
    }
}
