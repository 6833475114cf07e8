//! Turns requests on the admin listener into answers for operators and their machines.
//!
//! In:    a listening socket; the admin key.
//! Out:   health with every counter, readiness, metrics.
//! Never: open beyond `/health` and `/ready` without the key, where there is one.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use headers::authorization::Bearer;
use headers::{Authorization, HeaderMapExt};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::gate::Gate;
use super::health::{self, HealthSource, Source};
use super::metrics::MetricsSource;
use super::metrics::exposition::Exposition;
use super::wire::Wire;
use super::{
    ACCEPT_PAUSE, ADMIN_CONNECTIONS_MAX, Bounds, CROWDED_HEAD_TIMEOUT, Routes, connection, refusal,
};

/// The admin key, kept as its hash: a comparison takes the same time for every wrong key, whatever
/// its length.
#[derive(Clone)]
struct Key([u8; 32]);

impl Key {
    fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn opens(&self, headers: &HeaderMap) -> bool {
        let given = headers.typed_get::<Authorization<Bearer>>();
        given.is_some_and(|given| Self::new(given.token()).0.ct_eq(&self.0).into())
    }
}

/// The routes of the admin listener; `key` is `admin.key`.
pub fn router<S>(server: Arc<S>, key: Option<&str>) -> Routes
where
    S: HealthSource + MetricsSource + 'static,
{
    let source: Source = server.clone();
    let exposition = Arc::new(Exposition::of(server));
    // Open to machines that hold no key: load balancers and supervisors.
    let open = Router::new()
        .route("/health", get(async |source: Health| health::answer_admin(&source.0)))
        .route("/ready", get(async |source: Health| health::answer_ready(&source.0)))
        .with_state(source);
    let metrics = get(async move || exposition.answer());
    let mut keyed = Router::new()
        .route("/metrics", metrics)
        .fallback(async || refusal::with_status(StatusCode::NOT_FOUND));
    if let Some(key) = key {
        keyed = keyed.layer(from_fn_with_state(Key::new(key), guard));
    }
    open.merge(keyed).layer(map_response(async |response: Response| refusal::worded(response)))
}

type Health = State<Source>;

async fn guard(State(key): State<Key>, request: Request, next: Next) -> Response {
    if key.opens(request.headers()) {
        return next.run(request).await;
    }
    let mut refusal = refusal::with_status(StatusCode::UNAUTHORIZED);
    refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
}

/// Accepts and serves until `closing` turns true, then lets each connection finish the response
/// that is under way. Runs inside a tokio runtime (the main thread's).
pub async fn serve(listener: TcpListener, routes: Routes, closing: watch::Receiver<bool>) {
    let mut over = closing.clone();
    let mut conversations = JoinSet::new();
    let crowded = watch::Sender::new(false);
    loop {
        let has_room = conversations.len() < ADMIN_CONNECTIONS_MAX;
        crowded.send_replace(conversations.len() > ADMIN_CONNECTIONS_MAX / 2);
        tokio::select! {
            _ = over.wait_for(|closing| *closing) => break,
            Some(_) = conversations.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    let crowded = crowded.subscribe();
                    let (routes, closing) = (routes.clone(), closing.clone());
                    conversations.spawn(converse(stream, routes, closing, crowded));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

async fn converse(
    stream: TcpStream,
    routes: Routes,
    mut closing: watch::Receiver<bool>,
    mut crowded: watch::Receiver<bool>,
) {
    let gate = Gate::default();
    let crowd = crowded.clone();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (routes, gate, crowd) = (routes.clone(), gate.clone(), crowd.clone());
        async move {
            let has_body = connection::has_body(&request);
            let response = match connection::judge(&request, &gate) {
                Err(refusal) => refusal::of(&refusal),
                // Nothing here speaks WebSocket: the router says 404.
                Ok(_) => routes.oneshot(request.map(Body::new)).await?,
            };
            let is_crowded = *crowd.borrow();
            if is_crowded && !has_body {
                gate.hurry();
            }
            Ok(connection::conclude(response, &gate, is_crowded || has_body || gate.is_leaving()))
        }
    });
    let leave = async {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            _ = crowded.wait_for(|crowded| *crowded) => {}
        }
        // Whoever has asked nothing yet may be about to.
        if !gate.has_answered() {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                () = tokio::time::sleep(CROWDED_HEAD_TIMEOUT) => {}
            }
        }
        gate.hurry();
    };
    let wire = Wire::new(stream, &[], Arc::new(Bounds::default), gate.clone());
    if let Err(error) = connection::converse(wire, leave, service).await {
        tracing::debug!(%error, "an admin connection ended early");
    }
}
