//! Turns a wire and a service into one HTTP/1.1 conversation, from its first request to its end.
//!
//! In:    a wire, bounds, the word that the server is closing.
//! Out:   requests to the service; its responses on the wire.
//! Never: routes.

use std::convert::Infallible;
use std::pin::pin;

use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::wire::Wire;
use super::{Bounds, refusal};
use crate::limits::TARGET_BYTES_MAX;

/// What hyper may buffer of one connection beyond a request head: a response's chunk on its way.
const BUFFER_BYTES: usize = 48 << 10;

/// Speaks HTTP until the peer or a bound ends it, the wire is upgraded, or the server closes and
/// the response that is under way is out.
///
/// # Errors
/// What ended the conversation early: a malformed head, a timeout, a socket that failed.
pub(super) async fn converse<S>(
    wire: Wire,
    bounds: Bounds,
    mut closing: watch::Receiver<bool>,
    service: S,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_header_size(bounds.head_bytes)
        .max_buf_size(bounds.head_bytes.saturating_add(BUFFER_BYTES))
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    let mut conversation = pin!(conversation);
    tokio::select! {
        // Whoever could say "closing" is gone: that says it too.
        _ = closing.wait_for(|closing| *closing) => {}
        over = conversation.as_mut() => return over,
    }
    conversation.as_mut().graceful_shutdown();
    conversation.await
}

/// What no route may have to look at: hyper leaves these to its user.
///
/// RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
/// HTTP/1.1 request message that lacks a Host header field and to any request message that contains
/// more than one Host header field line".
pub(super) fn refused<B>(request: &Request<B>) -> Option<Response> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let message = "a request needs exactly one Host header; send one";
        return Some(refusal::explained(StatusCode::BAD_REQUEST, "bad_request", message));
    }
    let target_len = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    (target_len > TARGET_BYTES_MAX).then(|| refusal::response(StatusCode::URI_TOO_LONG))
}
