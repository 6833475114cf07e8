//! Turns a request's line and header fields into an upgrade, a refusal, or "no upgrade".
//!
//! In:    method, target, version, header fields; of the data ring's heads and of hyper's.
//! Out:   `Upgrade`: route, key, subprotocol.
//! Never: answers; knows a limit that changes while the server runs.

use percent_encoding::percent_decode_str;

use super::fields::{Fields, Protocol};
use super::refusal::{Refusal, RefusalKind, bad_request};
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn upgrade(target: &str, fields: &[(&str, &str)]) -> Result<Option<Upgrade>, Refusal> {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        Upgrade::from_parts("GET", target, true, fields)
    }

    fn route(target: &str) -> Result<Route, u16> {
        match upgrade(target, &GOOD) {
            Ok(upgrade) => Ok(upgrade.expect("an upgrade").route),
            Err(refusal) => Err(refusal.kind.status()),
        }
    }

    fn names(target: &str) -> Result<(String, String), u16> {
        match route(target)? {
            Route::Room { room, user, .. } => Ok((room.name.into(), user.into())),
            Route::Echo => panic!("{target} is no room"),
        }
    }

    fn with(changes: &[(&str, &str)]) -> Result<Option<Upgrade>, u16> {
        let mut fields = GOOD.to_vec();
        fields.retain(|(name, _)| changes.iter().all(|(other, _)| name != other));
        fields.extend(changes.iter().filter(|(_, value)| *value != "-"));
        upgrade("/echo", &fields).map_err(|refusal| refusal.kind.status())
    }

    fn protocol(offers: &[&str]) -> Result<Option<Protocol>, u16> {
        let offers: Vec<_> = offers.iter().map(|o| ("Sec-WebSocket-Protocol", *o)).collect();
        with(&offers).map(|upgrade| upgrade.expect("an upgrade").protocol)
    }

    #[test]
    fn rooms_and_echo_are_the_routes() {
        assert_eq!(names("/ws/lobby/ada"), Ok(("lobby".into(), "ada".into())));
        assert_eq!(route("/echo"), Ok(Route::Echo));
        assert_eq!(route("/echo?x=y"), Ok(Route::Echo));
        for target in ["/", "/ws", "/ws/", "/ws/a", "/ws/a/b/c", "/ws/a/b/", "/echo/", "/WS/a/b"] {
            assert_eq!(route(target), Err(404), "{target}");
        }
        assert_eq!(route("*"), Err(404));
    }

    #[test]
    fn absolute_targets_are_routed_by_their_path() {
        assert_eq!(names("http://host:8000/ws/a/b?x"), Ok(("a".into(), "b".into())));
        assert_eq!(names("WSS://host/ws/a/b"), Ok(("a".into(), "b".into())));
        assert_eq!(route("http://host/echo"), Ok(Route::Echo));
        for target in ["http://host", "http://host?/echo", "ftp://host/echo"] {
            assert_eq!(route(target), Err(404), "{target}");
        }
        assert_eq!(route("/echo#top"), Err(400));
    }

    #[test]
    fn names_are_percent_decoded_once() {
        assert_eq!(names("/ws/a%2Fb/%C3%A4%20+"), Ok(("a/b".into(), "\u{e4} +".into())));
        assert_eq!(names("/ws/%2541/%25"), Ok(("%41".into(), "%".into())));
        assert_eq!(names("/ws/gr\u{fc}n/\u{1f600}"), Ok(("gr\u{fc}n".into(), "\u{1f600}".into())));
        assert_eq!(names("/ws/%3F/%23"), Ok(("?".into(), "#".into())));
        for bad in ["%zz", "%", "%4", "a%", "%%41", "%ff", "%C3", "%ED%A0%80", "%C0%AF"] {
            assert_eq!(route(&format!("/ws/{bad}/u")), Err(400), "{bad}");
            assert_eq!(route(&format!("/ws/r/{bad}")), Err(400), "{bad}");
        }
    }

    #[test]
    fn names_are_1_to_128_bytes_without_control_characters() {
        for target in ["/ws//u", "/ws/r/", "/ws//", "/ws//?echo=false"] {
            assert_eq!(route(target), Err(400), "{target}");
        }
        for (name, ok) in [
            ("a".repeat(128), true),
            ("a".repeat(129), false),
            ("%C3%A4".repeat(64), true),
            (format!("{}a", "%C3%A4".repeat(64)), false),
        ] {
            assert_eq!(route(&format!("/ws/{name}/u")).is_ok(), ok, "{name}");
            assert_eq!(route(&format!("/ws/r/{name}")).is_ok(), ok, "{name}");
        }
        // A pattern that ends in `$` lets a trailing newline through.
        for bad in ["user%0a", "%0d%0ax", "a%00b", "%09", "%7f", "%C2%85", "%1B[2J"] {
            assert_eq!(route(&format!("/ws/r/{bad}")), Err(400), "{bad}");
            assert_eq!(route(&format!("/ws/{bad}/u")), Err(400), "{bad}");
        }
    }

    #[test]
    fn the_user_system_is_reserved_however_it_is_written() {
        assert_eq!(route("/ws/r/system"), Err(403));
        assert_eq!(route("/ws/r/%73ystem"), Err(403));
        assert_eq!(names("/ws/system/System"), Ok(("system".into(), "System".into())));
    }

    #[test]
    fn echo_in_the_query_is_true_or_false() {
        let hears = |query: &str| match route(&format!("/ws/r/u?{query}"))? {
            Route::Room { hears_itself, .. } => Ok(hears_itself),
            Route::Echo => Err(0),
        };
        assert_eq!(hears(""), Ok(true));
        assert_eq!(hears("echo=true"), Ok(true));
        assert_eq!(hears("since=x:1&echo=false&token=a=b"), Ok(false));
        assert_eq!(hears("xecho=false&ECHO=false&echo2"), Ok(true));
        for bad in ["echo", "echo=", "echo=0", "echo=False", "echo=false&echo=true", "echo=false "]
        {
            assert_eq!(hears(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn the_first_offer_that_is_known_is_taken() {
        assert_eq!(protocol(&[]), Ok(None));
        assert_eq!(protocol(&["chat, other"]), Ok(None));
        assert_eq!(protocol(&["ringhall.json"]), Ok(Some(Protocol::Json)));
        assert_eq!(protocol(&["x,ringhall.raw ,ringhall.json"]), Ok(Some(Protocol::Raw)));
        assert_eq!(protocol(&["ringhall.json, ringhall.raw"]), Ok(Some(Protocol::Json)));
        assert_eq!(protocol(&["x", ",ringhall.raw,,", "ringhall.json"]), Ok(Some(Protocol::Raw)));
        assert_eq!(protocol(&["RINGHALL.RAW", "constructor, __proto__"]), Ok(None));
        for bad in ["", " ", ",", "a b", "a;b", "\"a\"", "ringhall.raw, a/b", "\u{e4}"] {
            assert_eq!(protocol(&[bad]), Err(400), "{bad:?}");
        }
        // CVE-2021-32640: a long run of blanks took a pattern exponential time.
        assert_eq!(protocol(&[&*format!("a{}b", " ".repeat(16_000))]), Err(400));
    }

    #[test]
    fn the_mode_of_the_room_follows_the_subprotocol() {
        for (offer, mode) in
            [("other", Mode::Json), ("ringhall.json", Mode::Json), ("ringhall.raw", Mode::Raw)]
        {
            let mut fields = GOOD.to_vec();
            fields.push(("sec-websocket-protocol", offer));
            let route = upgrade("/ws/r/u", &fields).unwrap().unwrap().route;
            let Route::Room { room, .. } = route else { panic!("no room") };
            assert_eq!(room.mode, mode, "{offer}");
        }
    }

    #[test]
    fn extensions_are_ignored_whatever_they_look_like() {
        for offer in ["permessage-deflate; client_max_window_bits=99", "a; b=\"c,\\\"", ";;,=", ""]
        {
            assert!(with(&[("Sec-WebSocket-Extensions", offer)]).is_ok(), "{offer}");
        }
    }

    #[test]
    fn tokens_are_found_in_any_case_in_lists_and_in_several_lines() {
        for fields in [
            &[("Upgrade", "WebSocket")][..],
            &[("Upgrade", "h2c, websocket")],
            &[("Upgrade", "h2c"), ("UPGRADE", "websocket")],
            &[("Connection", "keep-alive, Upgrade")],
            &[("Connection", "keep-alive"), ("connection", ",upgrade")],
        ] {
            assert!(with(fields).is_ok_and(|upgrade| upgrade.is_some()), "{fields:?}");
        }
        for fields in [
            &[("Upgrade", "-")][..],
            &[("Upgrade", "h2c")],
            &[("Upgrade", "websocket2")],
            &[("Upgrade", "not websocket")],
        ] {
            assert_eq!(with(fields), Ok(None), "{fields:?}");
        }
    }

    #[test]
    fn a_bad_handshake_is_refused_with_the_status_of_its_fault() {
        for (fields, status) in [
            (&[("Connection", "-")][..], 400),
            (&[("Connection", "keep-alive")], 400),
            (&[("Sec-WebSocket-Version", "-")], 426),
            (&[("Sec-WebSocket-Version", "12")], 426),
            (&[("Sec-WebSocket-Version", "8")], 426),
            (&[("Sec-WebSocket-Version", "013")], 426),
            (&[("Sec-WebSocket-Version", "13, 8")], 426),
            (&[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")], 426),
            (&[("Content-Length", "1")], 400),
            (&[("Transfer-Encoding", "chunked")], 400),
        ] {
            assert_eq!(with(fields), Err(status), "{fields:?}");
        }
        assert!(with(&[("Content-Length", "0")]).is_ok());
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64_and_given_once() {
        for bad in [
            "-",
            "",
            "x",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ===",
            "dGhlIHNhbXBsZSBub25jZQAA",
            "dGhlIHNhbXBsZSBub25jZ===",
            "dGhlIHNhbXBsZSBub25j Q==",
            "dGhlIHNhbXBsZSBub25j-_==",
            "dGhlIHNhbXBsZSBub25jZQ==, x",
            "dGhlIHNhbXBsZSBub25j\u{e4}==",
        ] {
            assert_eq!(with(&[("Sec-WebSocket-Key", bad)]), Err(400), "{bad}");
        }
        let twice = [GOOD[3], GOOD[3]];
        assert_eq!(with(&twice), Err(400));
    }

    #[test]
    fn method_and_version_are_get_and_1_1() {
        let fields = || GOOD.iter().map(|(name, value)| (*name, value.as_bytes()));
        let status = |method, version_is_11| {
            let judged = Upgrade::from_parts(method, "/echo", version_is_11, fields());
            judged.map(|upgrade| upgrade.is_some()).map_err(|refusal| refusal.kind.status())
        };
        assert_eq!(status("GET", true), Ok(true));
        assert_eq!(status("POST", true), Err(405));
        assert_eq!(status("get", true), Err(405));
        assert_eq!(status("GET", false), Err(400));
    }

    #[test]
    fn a_request_has_one_host_and_one_way_to_tell_its_length() {
        for (fields, ok) in [
            (&[("Host", "a")][..], true),
            (&[("Host", "")], true),
            (&[("Host", "[::1]:8000")], true),
            (&[], false),
            (&[("Host", "a"), ("host", "a")], false),
            (&[("Host", "a, b")], false),
            (&[("Host", "a/b")], false),
            (&[("Host", "u@a")], false),
            (&[("Host", "a"), ("Content-Length", "5")], true),
            (&[("Host", "a"), ("Transfer-Encoding", "chunked")], true),
            (&[("Host", "a"), ("Content-Length", "5"), ("Content-Length", "5")], false),
            (&[("Host", "a"), ("Content-Length", "5"), ("Transfer-Encoding", "x")], false),
            (&[("Host", "a"), ("Content-Length", "5, 5")], false),
            (&[("Host", "a"), ("Content-Length", "+5")], false),
            (&[("Host", "a"), ("Content-Length", "")], false),
        ] {
            let judged = upgrade("/", fields).map_err(|refusal| refusal.kind.status());
            assert_eq!(judged, if ok { Ok(None) } else { Err(400) }, "{fields:?}");
        }
        let old = |fields: &'static [(&str, &[u8])]| {
            Upgrade::from_parts("GET", "/", false, fields.iter().copied()).is_ok()
        };
        assert!(old(&[]), "HTTP/1.0 knew no Host");
        assert!(!old(&[("Host", b"a"), ("Host", b"a")]));
        assert!(!old(&[("Transfer-Encoding", b"chunked")]));
    }
}
