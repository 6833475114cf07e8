//! Turns a socket that did not ask for an upgrade into answers of the public listener.
//!
//! In:    a connected socket, and the bytes already read from it.
//! Out:   responses; the socket again, where a later request on it is an upgrade after all.
//! Never: answers an upgrade by itself; counts connections.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;

use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;

use super::files::Files;
use super::health::{self, HealthSource, Source};
use super::wire::Wire;
use super::{Bounds, connection, refusal};

/// A request on a kept-alive connection that may be an upgrade, as the shard gets to see it.
pub struct LaterRequest<'a>(&'a Parts);

impl LaterRequest<'_> {
    /// The method, as sent.
    #[must_use]
    pub fn method(&self) -> &str {
        self.0.method.as_str()
    }

    /// Path and query, still encoded.
    #[must_use]
    pub fn target(&self) -> &str {
        self.0.uri.path_and_query().map_or("", |target| target.as_str())
    }

    /// Names (in lower case) and values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// The head again as bytes, for whoever would rather parse it as any first request's.
    #[must_use]
    pub fn head_bytes(&self) -> Vec<u8> {
        let version = if self.0.version == Version::HTTP_11 { "HTTP/1.1" } else { "HTTP/1.0" };
        let mut head = format!("{} {} {version}\r\n", self.method(), self.target()).into_bytes();
        for (name, value) in self.headers() {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// What the shard says to a later upgrade.
#[derive(Debug)]
pub enum UpgradeAnswer {
    /// It is an ordinary request: route it.
    NotOne,
    /// It is an upgrade, and refused.
    Refuse {
        /// The status, 400 to 599.
        status: u16,
        /// All headers but Content-Length.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// It is an upgrade, and the shard takes the socket once the 101 is out.
    Take {
        /// All headers of the 101.
        headers: Vec<(String, String)>,
        /// Comes back with the socket.
        token: u64,
    },
}

/// The shard, as far as a later upgrade needs it.
pub trait Upgrades {
    /// Judges a request that has an `Upgrade` header.
    fn answer(&self, request: &LaterRequest<'_>) -> UpgradeAnswer;

    /// Takes the socket back (nonblocking), and the bytes that were read beyond the request head:
    /// the first frames.
    fn taken(&self, token: u64, stream: std::net::TcpStream, leftover: Vec<u8>);

    /// The client went away before its 101 was out: nothing will come for this token.
    fn abandoned(&self, token: u64);
}

/// Everything that the public listener's plain connections of one shard share.
pub struct Site {
    router: Router,
    bounds: Bounds,
    closing: watch::Receiver<bool>,
    upgrades: Option<Rc<dyn Upgrades>>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Site {
    /// `router` is made once for all shards, by [`router`]; when `closing` turns true, connections
    /// finish the response that is under way and close.
    #[must_use]
    pub fn new(router: Router, bounds: Bounds, closing: watch::Receiver<bool>) -> Self {
        Self { router, bounds, closing, upgrades: None }
    }

    /// With somebody who answers later upgrades; without, they are refused with 426.
    #[must_use]
    pub fn with_upgrades(mut self, upgrades: Rc<dyn Upgrades>) -> Self {
        self.upgrades = Some(upgrades);
        self
    }

    /// A whole 503 with Retry-After (drawn anew, 1 to 5 s: not everybody comes back at once), for
    /// a socket beyond the bound on plain connections.
    #[must_use]
    pub fn full_response() -> Vec<u8> {
        refusal::raw_unavailable(fastrand::u32(1..=5))
    }

    async fn answer(&self, mut request: Request<Incoming>, promise: &Promise) -> Response {
        if let Some(refusal) = connection::refused(&request) {
            return refusal;
        }
        // An upgrade with a body is none that RFC 6455 knows; its frames could not be told apart.
        let may_upgrade =
            request.headers().contains_key(header::UPGRADE) && request.body().is_end_stream();
        if let Some(upgrades) = self.upgrades.as_ref().filter(|_| may_upgrade) {
            let on_upgrade = hyper::upgrade::on(&mut request);
            let (parts, body) = request.into_parts();
            match upgrades.answer(&LaterRequest(&parts)) {
                UpgradeAnswer::NotOne => {}
                UpgradeAnswer::Refuse { status, headers, body } => {
                    let status =
                        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return with(status, headers, body.into());
                }
                UpgradeAnswer::Take { headers, token } => {
                    *promise.borrow_mut() = Some((token, on_upgrade));
                    return with(StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty());
                }
            }
            request = Request::from_parts(parts, body);
        }
        let routed = self.router.clone().oneshot(request.map(Body::new)).await;
        routed.unwrap_or_else(|never| match never {})
    }
}

/// A token, and the socket that follows it once the 101 is out.
type Promise = RefCell<Option<(u64, OnUpgrade)>>;

fn with(status: StatusCode, headers: Vec<(String, String)>, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value))
        else {
            tracing::error!("a header of our own is malformed");
            return refusal::response(StatusCode::INTERNAL_SERVER_ERROR);
        };
        response.headers_mut().append(name, value);
    }
    response
}

/// The routes of the public listener (SPEC section 3), as far as plain requests go. `echo`: whether
/// there is an `/echo` (`echo.enabled`).
pub fn router(source: std::sync::Arc<dyn HealthSource>, files: Files, echo: bool) -> Router {
    let mut router = Router::new()
        .route("/health", get(async |source: Health| health::answer_public(&source.0)))
        .route("/ws/{*rest}", get(upgrade_required));
    if echo {
        router = router.route("/echo", get(upgrade_required));
    }
    router
        .fallback_service(files.router())
        .layer(map_response(async |response: Response| refusal::worded(response)))
        .with_state(source)
}

type Health = axum::extract::State<Source>;

/// RFC 9110 section 15.5.22: "The server MUST send an Upgrade header field in a 426 response".
/// RFC 6455 section 4.2.2: "the response MUST include a |Sec-WebSocket-Version| header field".
async fn upgrade_required() -> Response {
    let headers = [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_VERSION, "13"),
    ];
    (headers, refusal::response(StatusCode::UPGRADE_REQUIRED)).into_response()
}

/// Serves one connection to its end: the client's, a bound's, the server's, or an upgrade.
///
/// `stream` is connected; `prefix` is what was already read from it. Runs inside a tokio runtime
/// (a shard's); what the connection costs is bounded by the site's [`Bounds`], and the number of
/// such connections by the caller.
pub async fn serve(stream: std::net::TcpStream, prefix: Vec<u8>, site: Rc<Site>) {
    let socket = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "a plain connection could not be served"),
    };
    let promise = Rc::new(Promise::default());
    let service = service_fn(|request| {
        let (site, promise) = (site.clone(), promise.clone());
        async move { Ok::<_, Infallible>(site.answer(request, &promise).await) }
    });
    let wire = Wire::new(socket, prefix, site.bounds);
    let over = connection::converse(wire, site.bounds, site.closing.clone(), service).await;
    if let Err(error) = over {
        tracing::debug!(%error, "a plain connection ended early");
    }
    let promise = promise.take();
    if let (Some((token, on_upgrade)), Some(upgrades)) = (promise, &site.upgrades) {
        match hand_back(on_upgrade).await {
            Some((stream, leftover)) => upgrades.taken(token, stream, leftover),
            None => upgrades.abandoned(token),
        }
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
