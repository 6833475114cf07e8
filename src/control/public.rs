//! Turns a socket that did not ask for an upgrade into answers of the public listener.
//!
//! In:    a connected socket, and the bytes already read from it.
//! Out:   responses; the socket again, where a later request on it is an upgrade after all.
//! Never: answers an upgrade by itself; counts connections.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodRouter, any, get};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;

use super::files::Files;
use super::gate::Gate;
use super::health::{self, HealthSource, Source};
use super::wire::Wire;
use super::{Bounds, BoundsInForce, Routes, connection, refusal};
use crate::http::{Refusal, RefusalKind, Upgrade};
use crate::proxy::Front;

/// What the shard says to an upgrade that it accepts.
#[derive(Debug)]
pub struct Accepted {
    /// The whole 101, as `ws` makes it for a first request too.
    pub response: Vec<u8>,
    /// Comes back with the socket.
    pub token: u64,
}

/// The shard, as far as a later upgrade needs it: a proxy's connection has carried plain requests,
/// and now becomes somebody's WebSocket.
pub trait Upgrades {
    /// Judges a well-formed upgrade of the client of this address, where that is known.
    ///
    /// # Errors
    /// The refusal: the connection goes on with plain requests.
    fn judge(&self, upgrade: Upgrade, client: Option<IpAddr>) -> Result<Accepted, Refusal>;

    /// Takes the socket back (nonblocking), and the bytes that were read beyond the request head:
    /// the first frames. The 101 is out.
    fn taken(&self, token: u64, stream: std::net::TcpStream, leftover: Vec<u8>);

    /// The client went away before its 101 was out: nothing will come for this token.
    fn abandoned(&self, token: u64);

    /// Whether more than half of the process's plain HTTP connections are taken, this one included.
    fn is_crowded(&self) -> bool;

    /// Counts a refusal, whoever made it: a malformed request, a path without a file, or `judge`.
    fn refused(&self, kind: RefusalKind);
}

/// Everything that the public listener's plain connections of one shard share.
pub struct Site {
    routes: Routes,
    bounds: BoundsInForce,
    closing: watch::Receiver<bool>,
    upgrades: Option<Rc<dyn Upgrades>>,
    front: Front,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("bounds", &(self.bounds)()).finish_non_exhaustive()
    }
}

impl Site {
    /// `routes` are made once for all shards, by [`router`]; when `closing` turns true, connections
    /// finish the response that is under way and close. `bounds` is asked for each request head:
    /// what is in force may change.
    #[must_use]
    pub fn new(
        routes: Routes,
        bounds: impl Fn() -> Bounds + Send + Sync + 'static,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { routes, bounds: Arc::new(bounds), closing, upgrades: None, front: Front::default() }
    }

    /// With somebody who answers later upgrades; without, they are refused with 426.
    #[must_use]
    pub fn with_upgrades(mut self, upgrades: Rc<dyn Upgrades>) -> Self {
        self.upgrades = Some(upgrades);
        self
    }

    /// With proxies whose word on a client's address is taken; without, no proxy's is.
    #[must_use]
    pub fn behind(mut self, front: Front) -> Self {
        self.front = front;
        self
    }

    /// The client of a request on the connection of this peer.
    fn client(&self, peer: IpAddr, request: &Request<Incoming>) -> IpAddr {
        let fields = request.headers().get_all("x-forwarded-for").iter();
        self.front.client(peer, fields.map(HeaderValue::as_bytes))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<IpAddr>,
        gate: &Gate,
        promise: &Promise,
    ) -> Response {
        let has_body = connection::has_body(&request);
        let response = match connection::judge(&request, gate) {
            Err(refusal) => refusal::of(&refusal),
            Ok(Some(_)) if *self.closing.borrow() => {
                let message = "The server is shutting down: come back.";
                let retry = fastrand::u32(1..=10);
                refusal::of(&Refusal::for_now(RefusalKind::ShuttingDown, message, retry))
            }
            Ok(Some(upgrade)) if let Some(upgrades) = &self.upgrades => {
                let client = peer.map(|peer| self.client(peer, &request));
                match upgrades.judge(upgrade, client) {
                    Err(refusal) => refusal::of(&refusal),
                    Ok(accepted) => {
                        let on_upgrade = hyper::upgrade::on(request);
                        *promise.borrow_mut() = Some((accepted.token, on_upgrade));
                        return switching(&accepted.response);
                    }
                }
            }
            Ok(_) => {
                let routed = self.routes.clone().oneshot(request.map(Body::new)).await;
                routed.unwrap_or_else(|never| match never {})
            }
        };
        let kind = response.extensions().get::<RefusalKind>();
        if let (Some(&kind), Some(upgrades)) = (kind, &self.upgrades) {
            upgrades.refused(kind);
        }
        let is_crowded = self.upgrades.as_ref().is_some_and(|upgrades| upgrades.is_crowded());
        // A body that is still on its way would reset the connection, and its answer be lost.
        if is_crowded && !has_body {
            gate.hurry();
        }
        connection::conclude(response, gate, is_crowded || has_body || *self.closing.borrow())
    }
}

/// A token, and the socket that follows it once the 101 is out.
type Promise = RefCell<Option<(u64, OnUpgrade)>>;

/// The shard's 101 as a response of hyper's, which is the only one who knows when it is out.
fn switching(bytes: &[u8]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    response.headers_mut().extend(fields);
    response
}

/// The routes of the public listener (SPEC section 3), as far as plain requests go. `echo`: whether
/// there is an `/echo` now (`echo.enabled`); asked once a request.
pub fn router(
    source: Arc<dyn HealthSource>,
    files: Files,
    echo: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Routes {
    let enabled: MethodRouter = get(upgrade_required);
    let echo = any(move |request: Request<Body>| {
        let enabled = echo().then(|| enabled.clone());
        async move {
            match enabled {
                Some(enabled) => {
                    enabled.oneshot(request).await.unwrap_or_else(|never| match never {})
                }
                None => echo_disabled(),
            }
        }
    });
    Router::new()
        .route("/health", get(async |source: Health| health::answer_public(&source.0)))
        .route("/ws/{*rest}", get(upgrade_required))
        .route("/echo", echo)
        .fallback_service(files.router())
        .layer(map_response(async |response: Response| refusal::worded(response)))
        .with_state(source)
}

type Health = axum::extract::State<Source>;

async fn upgrade_required() -> Response {
    let message = "This path speaks WebSocket alone: connect with a WebSocket client, version 13.";
    refusal::of(&Refusal::new(RefusalKind::UpgradeRequired, message))
}

fn echo_disabled() -> Response {
    let message = "There is no echo here: the operator has set echo.enabled to false.";
    refusal::of(&Refusal::new(RefusalKind::EchoDisabled, message))
}

/// Serves one connection to its end: the client's, a bound's, the server's, or an upgrade.
///
/// `stream` is connected; `peer` is who is at its other end, where somebody knows better than the
/// socket; `prefix` is what was already read from it. Runs inside a tokio runtime
/// (a shard's); what the connection costs is bounded by the site's [`Bounds`], and the number of
/// such connections by the caller.
pub async fn serve(
    stream: std::net::TcpStream,
    peer: Option<IpAddr>,
    prefix: Vec<u8>,
    site: Rc<Site>,
) {
    let socket = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "a plain connection could not be served"),
    };
    let connected = || socket.peer_addr().ok().map(|address| address.ip().to_canonical());
    let peer = peer.or_else(connected);
    let promise = Rc::new(Promise::default());
    let gate = Gate::default();
    let service = service_fn(|request| {
        let (site, gate, promise) = (site.clone(), gate.clone(), promise.clone());
        async move { Ok::<_, Infallible>(site.answer(request, peer, &gate, &promise).await) }
    });
    let wire = Wire::new(socket, &prefix, site.bounds.clone(), gate.clone());
    drop(prefix);
    let mut closing = site.closing.clone();
    // Whoever could say "closing" is gone: that says it too.
    let leave = async { drop(closing.wait_for(|closing| *closing).await) };
    let over = connection::converse(wire, leave, service).await;
    if let Err(error) = over {
        // hyper found something that `http` lets pass, and has answered by itself.
        if let (true, Some(upgrades)) = (error.is_parse(), &site.upgrades) {
            upgrades.refused(RefusalKind::BadRequest);
        }
        let peer = peer.map(tracing::field::display);
        tracing::debug!(peer, %error, "a plain connection ended early");
    }
    let promise = promise.take();
    if let (Some((token, on_upgrade)), Some(upgrades)) = (promise, &site.upgrades) {
        match hand_back(on_upgrade).await {
            Some((stream, leftover)) => upgrades.taken(token, stream, leftover),
            None => upgrades.abandoned(token),
        }
    }
}

/// Says its last words to a socket that is nobody's any more, and closes it in the order in which
/// the other end hears them. Its costs are bounded as [`serve`]'s.
pub async fn dismiss(stream: std::net::TcpStream, words: &[u8], site: Rc<Site>) {
    let socket = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let Ok(socket) = socket else { return };
    let mut wire = Wire::new(socket, &[], site.bounds.clone(), Gate::default());
    if wire.write_all(words).await.is_ok() {
        let _closed = wire.shutdown().await;
    }
}

/// The socket as it was given to us, and everything read from it behind the request head.
async fn hand_back(on_upgrade: OnUpgrade) -> Option<(std::net::TcpStream, Vec<u8>)> {
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Wire>>().ok()?;
    let (stream, prefix) = parts.io.into_inner().into_parts();
    let mut leftover = Vec::from(parts.read_buf);
    leftover.extend_from_slice(&prefix);
    Some((stream.into_std().ok()?, leftover))
}
