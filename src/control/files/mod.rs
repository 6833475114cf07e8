//! Turns a path into a file: its bytes or a range of them, or the news that it has not changed.
//!
//! In:    GET and HEAD requests that no other route took.
//! Out:   200, 206, 304, 307 (a folder without its slash), 404, 405, 412, 416.
//! Never: leaves the folder, lists one, or shows a dot-file.
//!
//! tower-http's `ServeDir` does the work over one of two backends: what is built in, and a folder
//! of the operator's. Around it, this module does what `ServeDir` leaves out.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::any;
use headers::{ETag, HeaderMapExt, IfMatch, IfNoneMatch, IfRange, LastModified, Range};
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use tower::ServiceExt;
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, DefaultServeDirFallback};

use self::built_in::{BuiltIn, Shelf};
use self::folder::Folder;
use super::refusal;

mod built_in;
mod folder;
mod opened;

/// Where the public listener's files come from.
#[derive(Clone, Debug)]
pub struct Files(Origin);

#[derive(Clone, Debug)]
enum Origin {
    BuiltIn(Shelf),
    Folder(Folder),
}

impl Files {
    /// The pages inside the binary.
    #[must_use]
    pub fn built_in() -> Self {
        Self(Origin::BuiltIn(Shelf(Arc::new(BuiltIn::new()))))
    }

    /// The files of a folder (`static.dir`), looked at anew for each request.
    ///
    /// # Errors
    /// The path is no folder, or may not be entered: the operator's mistake, to be told at start.
    pub fn folder(path: impl Into<PathBuf>) -> io::Result<Self> {
        Folder::new(path.into()).map(|folder| Self(Origin::Folder(folder)))
    }

    /// A router that answers every path with these files.
    pub(super) fn router(self) -> axum::Router {
        let handler = any(move |request: Request| {
            let files = self.clone();
            async move { files.answer(request).await }
        });
        axum::Router::new().fallback_service(handler)
    }

    async fn answer(&self, request: Request) -> Response {
        match &self.0 {
            Origin::BuiltIn(shelf) => {
                let path = plain_path(request.uri());
                let page = path.and_then(|path| shelf.0.page(&path));
                let etag = page.map(|page| page.etag.clone());
                let policy = page.and_then(|page| page.policy.clone());
                let mut response =
                    answer(ServeDir::with_backend("", shelf.clone()), etag, request).await;
                if let Some(policy) = policy {
                    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
                }
                response
            }
            Origin::Folder(folder) => {
                answer(ServeDir::with_backend("", folder.clone()), None, request).await
            }
        }
    }
}

/// Serves one request. `etag` is the validator of what has no modification time to make one of.
async fn answer<B: Backend>(
    dir: ServeDir<DefaultServeDirFallback, B>,
    etag: Option<ETag>,
    mut request: Request,
) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = refusal::with_status(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    if plain_path(request.uri()).is_none() {
        return refusal::with_status(StatusCode::NOT_FOUND);
    }
    // A file is small enough for one range at a time: several are answered with all of it.
    let dir = dir.ignore_multi_range_requests(true);
    let (headers, uri) = (request.headers(), request.uri());
    if !wants_range(&request) || !is_same_version(&dir, etag.as_ref(), headers, uri).await {
        request.headers_mut().remove(header::RANGE);
    }
    let settled = etag.as_ref().and_then(|etag| precondition(etag, request.headers_mut()));
    let mut response = match settled {
        Some(status) => bare(status),
        None => dir.oneshot(request).await.unwrap_or_else(|never| match never {}).map(Body::new),
    };
    dress(&mut response, etag);
    refusal::worded(response)
}

/// The decoded path, where it may name a file at all. `ServeDir` refuses `..` and backslashes by
/// itself; an empty segment would make its redirect to a folder's slash point at another host
/// (`//host/`).
fn plain_path(uri: &Uri) -> Option<Cow<'_, str>> {
    let path = percent_decode_str(uri.path()).decode_utf8().ok()?;
    let is_plain = path.starts_with('/')
        && !path.contains("//")
        && !path.chars().any(char::is_control)
        && !path.split('/').any(|segment| segment.starts_with('.'));
    is_plain.then_some(path)
}

/// RFC 9110 section 14.2: "A server MUST ignore a Range header field received with a request method
/// that is unrecognized or for which range handling is not defined. For this specification, GET is
/// the only method for which range handling is defined", and "An origin server MUST ignore a Range
/// header field that contains a range unit it does not understand".
fn wants_range(request: &Request) -> bool {
    request.method() == Method::GET && request.headers().typed_get::<Range>().is_some()
}

/// RFC 9110 section 13.1.5: "If-Range [...] if the representation is unchanged, send me the part(s)
/// that I am requesting in Range; otherwise, send me the entire representation".
async fn is_same_version<B: Backend>(
    dir: &ServeDir<DefaultServeDirFallback, B>,
    etag: Option<&ETag>,
    headers: &HeaderMap,
    uri: &Uri,
) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    let Some(if_range) = headers.typed_get::<IfRange>() else { return false };
    if let Some(etag) = etag {
        return !if_range.is_modified(Some(etag), None);
    }
    let mut ask = Request::new(Body::empty());
    *ask.method_mut() = Method::HEAD;
    *ask.uri_mut() = uri.clone();
    let now = dir.clone().oneshot(ask).await.unwrap_or_else(|never| match never {});
    let etag = now.headers().typed_get::<ETag>();
    let modified = now.headers().typed_get::<LastModified>();
    !if_range.is_modified(etag.as_ref(), modified.as_ref())
}

/// RFC 9110 section 13.2.2, for what has an ETag and no date: If-Match first, then If-None-Match.
/// `ServeDir` knows no such ETag and would judge otherwise, so it never sees them.
fn precondition(etag: &ETag, headers: &mut HeaderMap) -> Option<StatusCode> {
    let wanted = headers.typed_get::<IfMatch>();
    let known = headers.typed_get::<IfNoneMatch>();
    headers.remove(header::IF_MATCH);
    headers.remove(header::IF_NONE_MATCH);
    if wanted.is_some_and(|wanted| !wanted.precondition_passes(etag)) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    known.is_some_and(|known| !known.precondition_passes(etag)).then_some(StatusCode::NOT_MODIFIED)
}

fn bare(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The headers that every answer about a file carries.
fn dress(response: &mut Response, etag: Option<ETag>) {
    let headers = response.headers_mut();
    if let Some(etag) = etag {
        headers.typed_insert(etag);
    }
    // Revalidate each time: a new version of the page is seen at once, an old one costs a 304.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .filter(|kind| kind.starts_with("text/") && !kind.contains(';'))
        .map(|kind| format!("{kind}; charset=utf-8"));
    if let Some(kind) = text.and_then(|kind| HeaderValue::from_str(&kind).ok()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_may_name_a_file() {
        for good in ["/", "/index.html", "/a/b.c/", "/a%20b", "/a..b"] {
            assert!(plain_path(&Uri::from_static(good)).is_some(), "{good}");
        }
        let bad = ["/../x", "/%2e%2e/x", "/..%2fx", "//x", "/%2fx", "/.env", "/a/.git/config"];
        for bad in bad.into_iter().chain(["/a%00", "/%ff", "/a%0ab", "*", "/a//b"]) {
            assert!(plain_path(&Uri::from_static(bad)).is_none(), "{bad}");
        }
    }
}
