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
}

impl Readiness {
    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Starting => Some("starting"),
            Self::Draining => Some("draining"),
            Self::Full => Some("full"),
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

    /// What anybody may know.
    #[must_use]
    pub fn public_view(&self) -> Value {
        json!({
            "status": self.state.word(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.uptime.as_secs(),
            "connections": self.connections,
            "rooms": self.rooms,
            "dependencies": { "shards": self.shards(), "broker": { "state": "in_process" } },
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

    #[test]
    fn no_shard_alive_is_down() {
        assert_eq!(health([false, false]).public_view()["dependencies"]["shards"]["state"], "down");
    }
}
