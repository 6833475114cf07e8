//! Turns a reason into a refusal: a status and the JSON body that SPEC section 3 promises.
//!
//! In:    a status, or a response without a body that says no.
//! Out:   `{"error":"code","message":"what and what to do"}`.
//! Never: decides that something is refused.

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Serialize;

/// The body of every refusal.
#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: &'a str,
    message: &'a str,
}

/// Code and message of each status that this side of the house answers with.
fn words(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::UNAUTHORIZED => (
            "unauthorized",
            "this listener wants the header `Authorization: Bearer KEY` with the key of admin.key",
        ),
        StatusCode::NOT_FOUND => {
            ("not_found", "there is nothing at this path; check its spelling, or start at /")
        }
        StatusCode::METHOD_NOT_ALLOWED => (
            "method_not_allowed",
            "this path does not take that method; the header Allow names those it takes",
        ),
        StatusCode::PRECONDITION_FAILED => (
            "precondition_failed",
            "the file has changed since the version your request names; fetch it anew",
        ),
        StatusCode::URI_TOO_LONG => {
            ("uri_too_long", "the request target is too long; 4096 bytes are allowed")
        }
        StatusCode::RANGE_NOT_SATISFIABLE => (
            "range_not_satisfiable",
            "the file has no such bytes; the header Content-Range tells its length",
        ),
        StatusCode::UPGRADE_REQUIRED => (
            "upgrade_required",
            "this path speaks WebSocket alone; connect with a WebSocket client, version 13",
        ),
        StatusCode::SERVICE_UNAVAILABLE => {
            ("unavailable", "the server is busy or shutting down; come back after Retry-After")
        }
        status if status.is_client_error() => {
            ("bad_request", "the request is not one that this server understands")
        }
        _ => ("internal", "the server failed at this request; its log says why"),
    }
}

/// The JSON text of a refusal.
fn body(error: &str, message: &str) -> String {
    serde_json::to_string(&Refusal { error, message }).expect("two strings are always JSON")
}

/// A refusal with the status's own code and message.
#[must_use]
pub fn response(status: StatusCode) -> Response {
    let (error, message) = words(status);
    explained(status, error, message)
}

/// A refusal with a code and a message of its own.
#[must_use]
pub fn explained(status: StatusCode, error: &str, message: &str) -> Response {
    let mut response = Response::new(Body::from(body(error, message)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Gives a library's bare refusal (a 404, 405 or 416 without words) the body that is promised; its
/// headers (Allow, Content-Range) stay. Anything else passes as it is.
#[must_use]
pub fn worded(bare: Response) -> Response {
    let status = bare.status();
    let is_json = bare
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == b"application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return bare;
    }
    let mut refusal = response(status);
    for (name, value) in bare.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            refusal.headers_mut().insert(name, value.clone());
        }
    }
    refusal
}

/// A whole 503 in bytes, for a socket that no HTTP library will be spent on.
#[must_use]
pub fn raw_unavailable(retry_after_s: u32) -> Vec<u8> {
    let (error, message) = words(StatusCode::SERVICE_UNAVAILABLE);
    let body = body(error, message);
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after_s}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_405_gets_words_and_keeps_allow() {
        let mut bare = Response::new(Body::empty());
        *bare.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        bare.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        let refusal = worded(bare);
        assert_eq!(refusal.headers()[header::ALLOW], "GET, HEAD");
        assert_eq!(refusal.headers()[header::CONTENT_TYPE], "application/json");
    }

    #[test]
    fn a_success_passes_untouched() {
        let plain = worded(Response::new(Body::from("as it was")));
        assert!(plain.headers().is_empty());
        assert_eq!(plain.status(), StatusCode::OK);
    }

    #[test]
    fn the_raw_503_tells_its_length() {
        let raw = String::from_utf8(raw_unavailable(3)).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(head.contains("Retry-After: 3\r\n"), "{head}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}
