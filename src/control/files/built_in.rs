//! Turns the pages inside the binary into files of `ServeDir`.
//!
//! In:    `src/public/`, at compile time.
//! Out:   bytes, a strong ETag, and a Content-Security-Policy for each page.
//! Never: reads a disk.

use std::future::{Ready, ready};
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headers::ETag;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tower_http::services::fs::Backend;

use super::opened::{About, Opened};

/// Everything built in: its path, and its bytes.
const PAGES: &[(&str, &[u8])] =
    &[("index.html", include_bytes!("../../public/index.html").as_slice())];

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    path: &'static str,
    bytes: &'static [u8],
    /// Made of the content: the same in every process of one build.
    pub(super) etag: ETag,
    /// For HTML alone.
    pub(super) policy: Option<HeaderValue>,
}

impl Page {
    fn about(&self) -> About {
        About { is_dir: false, len: self.bytes.len() as u64, modified: None }
    }
}

/// All pages.
#[derive(Debug)]
pub(super) struct BuiltIn {
    pages: Vec<Page>,
}

impl BuiltIn {
    pub(super) fn new() -> Self {
        let pages = PAGES.iter().map(|&(path, bytes)| {
            let etag = format!("\"{}\"", STANDARD.encode(Sha256::digest(bytes)));
            let html = path.ends_with(".html").then(|| String::from_utf8_lossy(bytes));
            Page {
                path,
                bytes,
                etag: etag.parse().expect("base64 in quotes is an entity tag"),
                policy: html.map(|html| policy(&html)),
            }
        });
        Self { pages: pages.collect() }
    }

    /// The page at a request's path.
    pub(super) fn page(&self, path: &str) -> Option<&Page> {
        let path = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
        self.pages.iter().find(|page| page.path == path)
    }

    fn find(&self, path: &Path) -> io::Result<&Page> {
        let path = path.strip_prefix(".").unwrap_or(path);
        self.pages
            .iter()
            .find(|page| Path::new(page.path) == path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The pages as a backend.
impl Backend for Shelf {
    type File = Opened<Cursor<&'static [u8]>>;
    type Metadata = About;
    type OpenFuture = Ready<io::Result<Self::File>>;
    type MetadataFuture = Ready<io::Result<About>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let page = self.0.find(&path);
        ready(page.map(|page| Opened { about: page.about(), bytes: Cursor::new(page.bytes) }))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        if path.components().all(|part| part.as_os_str() == ".") {
            return ready(Ok(About { is_dir: true, len: 0, modified: None }));
        }
        ready(self.0.find(&path).map(Page::about))
    }
}

/// The pages, shared.
#[derive(Clone, Debug)]
pub(super) struct Shelf(pub(super) Arc<BuiltIn>);

/// Allows a page its own scripts, by their hashes, and nothing that somebody smuggled into it: what
/// people say in rooms must never run. Styles may be inline; the page may call home, and only home,
/// by HTTP and WebSocket (`'self'` does not cover `ws:` in every browser).
fn policy(html: &str) -> HeaderValue {
    let mut scripts = String::new();
    for script in scripts_of(html) {
        scripts.push_str(" 'sha256-");
        STANDARD.encode_string(Sha256::digest(script), &mut scripts);
        scripts.push('\'');
    }
    let policy = format!(
        "default-src 'none'; script-src{}; style-src 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        if scripts.is_empty() { " 'none'" } else { &scripts },
    );
    HeaderValue::from_str(&policy).expect("a policy is visible ASCII")
}

/// The text of each inline script. Our own pages alone come here, so no HTML parser is needed.
fn scripts_of(html: &str) -> impl Iterator<Item = &str> {
    html.split("<script").skip(1).filter_map(|rest| {
        let (_attributes, rest) = rest.split_once('>')?;
        rest.split_once("</script>").map(|(script, _)| script)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_each_script_by_its_hash() {
        let policy = policy("<script>alert(1)</script><p><script type=module>x</script>");
        // printf 'alert(1)' | openssl dgst -sha256 -binary | base64
        let policy = policy.to_str().unwrap();
        assert!(
            policy.contains("'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"),
            "{policy}"
        );
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
    }

    #[test]
    fn a_page_without_a_script_may_run_none() {
        assert!(policy("<p>").to_str().unwrap().contains("script-src 'none'"));
    }

    /// The policy forbids inline handlers and foreign files: a page that uses them would be dead.
    #[test]
    fn the_pages_keep_to_their_policy() {
        for page in BuiltIn::new().pages.iter().filter(|page| page.policy.is_some()) {
            let html = std::str::from_utf8(page.bytes).unwrap().to_ascii_lowercase();
            for forbidden in [" onclick=", " onload=", " onsubmit=", " src=\"http", "javascript:"] {
                assert!(!html.contains(forbidden), "{}: {forbidden}", page.path);
            }
            assert_eq!(html.matches("<script").count(), scripts_of(&html).count(), "{}", page.path);
        }
    }
}
