//! Turns a wire and a service into one HTTP/1.1 conversation, from its first request to its end.
//!
//! In:    a wire, bounds, the word that the connection has to end.
//! Out:   requests to the service; its responses on the wire.
//! Never: routes.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;

use super::gate::{Gate, Turn};
use super::wire::Wire;
use crate::http::{Refusal, RefusalKind, Upgrade};
use crate::limits::TARGET_BYTES_MAX;

/// Speaks HTTP until the peer or a bound ends it, the wire is upgraded, or `leave` is over and the
/// response that is under way is out.
///
/// # Errors
/// What ended the conversation early: a malformed head, a socket that failed.
pub(super) async fn converse<S>(
    wire: Wire,
    leave: impl Future<Output = ()>,
    service: S,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    let gate = wire.gate().clone();
    let conversation = http1::Builder::new()
        // The wire has judged each head, and waits for none too long.
        .header_read_timeout(None)
        .max_buf_size(wire.buffer_bytes())
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    let mut conversation = pin!(conversation);
    tokio::select! {
        // The conversation first: a request that was already read when the server began to close
        // is then under way, and not a connection that has said nothing.
        biased;
        over = conversation.as_mut() => return over,
        () = leave => {}
    }
    // Not hyper's graceful shutdown: that forgets a whole response which the socket has not taken.
    gate.leave();
    conversation.await
}

/// Judges a request as the data ring judges the first of a connection: its framing, whose checks
/// hyper leaves to its user (RFC 9112 section 3.2 on Host), and whether it asks for a WebSocket.
///
/// # Errors
/// The refusal: of this request, or of the head that it stands for.
pub(super) fn judge(request: &Request<Incoming>, gate: &Gate) -> Result<Option<Upgrade>, Refusal> {
    if let Some(refusal) = gate.take_refusal() {
        return Err(refusal);
    }
    if has_body(request) {
        gate.open_for_body();
    }
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    if target.len() > TARGET_BYTES_MAX {
        let message = format!("The request target is too long: {TARGET_BYTES_MAX} bytes at most.");
        return Err(Refusal::new(RefusalKind::UriTooLong, message));
    }
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let is_11 = request.version() == Version::HTTP_11;
    Upgrade::from_parts(request.method().as_str(), target, is_11, headers)
}

/// No route reads a body, and where one ends nobody but hyper knows: the connection ends with it.
pub(super) fn has_body(request: &Request<Incoming>) -> bool {
    !request.body().is_end_stream()
}

/// Readies a response for the wire, which may hand over the next head behind its last byte; where
/// it is the connection's last, it says so.
pub(super) fn conclude(mut response: Response<Body>, gate: &Gate, is_last: bool) -> Response<Body> {
    if is_last {
        response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let turn = gate.answered();
    response.map(|body| Body::new(Spoken { body, _turn: turn }))
}

/// A body that opens the gate when hyper has had all of it, or lets go of it.
struct Spoken {
    body: Body,
    _turn: Turn,
}

impl hyper::body::Body for Spoken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
