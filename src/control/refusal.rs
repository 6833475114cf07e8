//! Turns a refusal into a response of hyper's, with the JSON body that SPEC section 3 promises.
//!
//! In:    a `Refusal`; a status of the few that only this side of the house knows; a library's
//!        bare 404.
//! Out:   `{"error":"code","message":"what and what to do"}`.
//! Never: decides that something is refused.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde_json::json;

use crate::http::{Refusal, RefusalKind};

/// The response of a refusal that the data ring knows too. Its kind goes along as an extension, to
/// be counted on the way out.
pub(super) fn of(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.kind.status());
    let mut response =
        json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.body().into());
    response.extensions_mut().insert(refusal.kind);
    let headers = response.headers_mut();
    match refusal.kind {
        // RFC 9110 section 15.5.22: "The server MUST send an Upgrade header field in a 426
        // response"; RFC 6455 section 4.4 wants the versions that it speaks.
        RefusalKind::UpgradeRequired => {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        RefusalKind::MethodNotAllowed => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        _ => {}
    }
    if let Some(seconds) = refusal.retry_after_s {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The response of a status that needs no further words.
pub(super) fn with_status(status: StatusCode) -> Response {
    let (error, message) = match status {
        StatusCode::NOT_FOUND => return of(&Refusal::new(RefusalKind::NotFound, NOT_FOUND)),
        StatusCode::METHOD_NOT_ALLOWED => {
            return of(&Refusal::new(RefusalKind::MethodNotAllowed, METHOD_NOT_ALLOWED));
        }
        StatusCode::UNAUTHORIZED => {
            ("unauthorized", "Send 'Authorization: Bearer KEY' with the key of admin.key.")
        }
        StatusCode::PRECONDITION_FAILED => (
            "precondition_failed",
            "The file has changed since the version that the request names: fetch it anew.",
        ),
        StatusCode::RANGE_NOT_SATISFIABLE => (
            "range_not_satisfiable",
            "The file has no such bytes: Content-Range tells how many it has.",
        ),
        status if status.is_client_error() => {
            ("bad_request", "This server does not understand the request.")
        }
        _ => ("internal", "The server failed at this request: try again in a moment."),
    };
    json(status, json!({ "error": error, "message": message }).to_string().into())
}

const NOT_FOUND: &str = "There is nothing at this path: check its spelling, or start at /.";
const METHOD_NOT_ALLOWED: &str = "This path does not take the method: Allow names those it takes.";

fn json(status: StatusCode, body: Cow<'static, str>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Gives a library's bare refusal (a 404, 405 or 416 without words) the body that is promised; its
/// headers (Allow, Content-Range) stay. Anything else passes as it is.
pub(super) fn worded(bare: Response) -> Response {
    let status = bare.status();
    let is_worded = bare.headers().get(header::CONTENT_TYPE) == Some(&JSON);
    if is_worded || !(status.is_client_error() || status.is_server_error()) {
        return bare;
    }
    let mut refusal = with_status(status);
    for (name, value) in bare.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            refusal.headers_mut().insert(name, value.clone());
        }
    }
    refusal
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
        let kind = refusal.extensions().get::<RefusalKind>();
        assert_eq!(kind, Some(&RefusalKind::MethodNotAllowed));
    }

    #[test]
    fn a_success_passes_untouched() {
        let plain = worded(Response::new(Body::from("as it was")));
        assert!(plain.headers().is_empty());
        assert_eq!(plain.status(), StatusCode::OK);
    }

    #[test]
    fn a_refusal_for_now_tells_when_to_come_back() {
        let refusal = of(&Refusal::for_now(RefusalKind::ShuttingDown, "Come back.", 3));
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refusal.headers()[header::RETRY_AFTER], "3");
    }
}
