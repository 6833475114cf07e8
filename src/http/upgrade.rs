//! Turns a request's line and header fields into an upgrade, a refusal, or "no upgrade".
//!
//! In:    method, target, version, header fields; of the data ring's heads and of hyper's.
//! Out:   `Upgrade`: route, key, subprotocol.
//! Never: answers; knows a limit that changes while the server runs.

use percent_encoding::percent_decode_str;

use super::fields::Fields;
use super::refusal::{Refusal, RefusalKind};
use crate::id::{Mode, RoomKey};
use crate::limits;

/// A checked upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Where to.
    pub route: Route,
    /// `Sec-WebSocket-Key`: 24 characters of base64.
    pub key: Box<str>,
    /// The subprotocol to name in the answer.
    pub protocol: Option<Protocol>,
}

/// Where an upgrade leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/ws/{room}/{user}`.
    Room {
        /// Name and mode.
        room: RoomKey,
        /// Who joins: 1 to 128 bytes, no control characters, not `system`.
        user: Box<str>,
        /// False with `echo=false`: what this connection says is not sent back to it.
        hears_itself: bool,
    },
    /// `/echo`.
    Echo,
}

/// A subprotocol of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// JSON envelopes; also what no subprotocol means.
    Json,
    /// Payloads byte for byte.
    Raw,
}

impl Protocol {
    /// As it stands in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "ringhall.json",
            Self::Raw => "ringhall.raw",
        }
    }

    /// The subprotocol of that name. Case counts.
    #[must_use]
    pub fn from_token(token: &[u8]) -> Option<Self> {
        [Self::Json, Self::Raw].into_iter().find(|known| known.as_str().as_bytes() == token)
    }
}

impl Upgrade {
    /// Judges a request whose line and header fields were parsed; `None` where it asks for no
    /// WebSocket.
    ///
    /// # Errors
    /// The refusal, also for requests that are no upgrade but malformed as HTTP.
    pub fn from_parts<'h>(
        method: &str,
        target: &str,
        version_is_11: bool,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<Option<Self>, Refusal> {
        let fields = Fields::gather(headers);
        fields.check_framing(version_is_11)?;
        if !fields.asks_for_websocket {
            return Ok(None);
        }
        // RFC 6455 section 4.1: "The method of the request MUST be GET, and the HTTP version MUST
        // be at least 1.1."
        if method != "GET" {
            return Err(Refusal::new(
                RefusalKind::MethodNotAllowed,
                "A WebSocket is opened with GET.",
            ));
        }
        if !version_is_11 {
            return Err(bad_request("A WebSocket is opened with HTTP/1.1."));
        }
        let key = fields.check_handshake()?;
        let protocol = fields.protocol;
        let mode = match protocol {
            Some(Protocol::Raw) => Mode::Raw,
            Some(Protocol::Json) | None => Mode::Json,
        };
        Ok(Some(Self { route: parse_route(target, mode)?, key: key.into(), protocol }))
    }
}

fn parse_route(target: &str, mode: Mode) -> Result<Route, Refusal> {
    if target.contains('#') {
        return Err(bad_request("A request target has no fragment: leave out '#' and the rest."));
    }
    let target = path_of(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path == "/echo" {
        return Ok(Route::Echo);
    }
    let names = path.strip_prefix("/ws/").and_then(|names| names.split_once('/'));
    let Some((room, user)) = names.filter(|(_, user)| !user.contains('/')) else {
        return Err(Refusal::new(
            RefusalKind::NotFound,
            "No WebSocket here: connect to /ws/{room}/{user} or /echo (a slash inside a name is \
             written %2F).",
        ));
    };
    let name = parse_name(room)?;
    let user = parse_name(user)?;
    if &*user == "system" {
        return Err(Refusal::new(
            RefusalKind::ReservedName,
            "The user 'system' is the server itself: choose another name.",
        ));
    }
    Ok(Route::Room { room: RoomKey { mode, name }, user, hears_itself: parse_echo(query)? })
}

/// What follows the authority. RFC 9112 section 3.2.2: "a server MUST accept the absolute-form in
/// requests".
fn path_of(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once("://") else { return target };
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return target;
    }
    rest.find(['/', '?']).map_or("", |at| &rest[at..])
}

/// Decodes the name of a room or a user, once.
fn parse_name(encoded: &str) -> Result<Box<str>, Refusal> {
    const ALLOWED: &str = "Room and user are 1 to 128 bytes of percent-encoded UTF-8 without \
                           control characters.";
    if !escapes_are_whole(encoded) {
        return Err(bad_request("A '%' in a path is followed by two hexadecimal digits."));
    }
    let name = percent_decode_str(encoded).decode_utf8().map_err(|_| bad_request(ALLOWED))?;
    // The whole decoded name is looked at: a pattern that ends in `$` lets `user%0a` through.
    if !(1..=limits::NAME_BYTES_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(bad_request(ALLOWED));
    }
    Ok(name.into())
}

fn escapes_are_whole(encoded: &str) -> bool {
    encoded.split('%').skip(1).all(|behind| {
        behind
            .as_bytes()
            .first_chunk::<2>()
            .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The value of `echo`; unknown parameters are somebody else's.
fn parse_echo(query: &str) -> Result<bool, Refusal> {
    let mut values = query.split('&').filter_map(|parameter| match parameter.split_once('=') {
        Some(("echo", value)) => Some(value),
        None if parameter == "echo" => Some(""),
        _ => None,
    });
    match (values.next(), values.next()) {
        (None | Some("true"), None) => Ok(true),
        (Some("false"), None) => Ok(false),
        _ => Err(bad_request("The parameter 'echo' is given once and is 'true' or 'false'.")),
    }
}

pub(super) fn bad_request(message: &'static str) -> Refusal {
    Refusal::new(RefusalKind::BadRequest, message)
}
