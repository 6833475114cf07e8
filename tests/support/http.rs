//! Plain HTTP as a test sees it: the bytes out are the test's own, the answer is taken apart.

use std::net::SocketAddr;

use serde_json::Value;

use super::client::{Client, End};

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Such as 404.
    pub status: u16,
    /// In the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing; empty where the answer has none.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that stands there once; `None` where it is missing.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        let mut found = self.headers.iter().filter(|header| header.0 == name);
        let value = found.next().map(|header| header.1.as_str());
        assert!(found.next().is_none(), "{name} stands there twice: {:?}", self.headers);
        value
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Asserts a refusal of SPEC section 3: status, and a JSON body with code and message.
    #[track_caller]
    pub fn expect_refusal(&self, status: u16, code: &str) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        let body = self.json();
        assert_eq!(body["error"], code, "{text}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
    }

    fn parse_head(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let header = line.split_once(':');
                let (name, value) = header.unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Self { status, headers, body: Vec::new() }
    }
}

/// Sends the bytes on a connection of their own and takes one answer.
///
/// # Panics
/// If no whole answer comes within the deadline.
#[track_caller]
pub fn http(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let request = request.as_ref();
    let mut client = Client::raw(address);
    client.send_bytes(request);
    client.recv_response(request.starts_with(b"HEAD "))
}

/// `GET path`, politely.
///
/// # Panics
/// If no whole answer comes within the deadline.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Response {
    http(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

impl Client {
    /// Takes one HTTP answer; what follows it stays for the next call. `head` where the request
    /// was a HEAD, whose answer has no body whatever its headers say.
    ///
    /// # Panics
    /// If no whole answer comes within the deadline.
    #[track_caller]
    pub fn recv_response(&mut self, head: bool) -> Response {
        self.try_recv_response(head).unwrap_or_else(|end| panic!("no whole answer: {end:?}"))
    }

    /// As [`Client::recv_response`].
    ///
    /// # Errors
    /// How the connection ended, where it ended before the answer did.
    pub fn try_recv_response(&mut self, head: bool) -> Result<Response, End> {
        let bytes = self.take_until(b"\r\n\r\n")?;
        let mut response = Response::parse_head(std::str::from_utf8(&bytes).expect("a head"));
        if head || response.status < 200 || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().expect("a length");
            response.body = self.take(length)?;
        } else if response.header("transfer-encoding").is_some() {
            response.body = self.take_chunks()?;
        } else {
            response.body = self.take_all()?;
        }
        Ok(response)
    }

    fn take_chunks(&mut self) -> Result<Vec<u8>, End> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n")?;
            let line = std::str::from_utf8(&line).expect("a chunk size");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk size");
            body.extend(self.take(size)?);
            assert_eq!(self.take(2)?, b"\r\n", "the end of a chunk");
            if size == 0 {
                return Ok(body);
            }
        }
    }
}
