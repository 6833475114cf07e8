//! Reads `broker.url` where it names Kafka.
//!
//! In:    `kafka://user:password@one:9092,two:9092/?sasl=scram-sha-256`, or `kafka+tls://`.
//! Out:   the brokers to ask first, the login, whether TLS is spoken.
//! Never: looks a name up; repeats a password.

use percent_encoding::percent_decode_str;

use crate::broker::BrokerError;

/// Where brokers listen if the address does not say, without TLS and with it.
const PORTS: [u16; 2] = [9092, 9093];

const FORM: &str = "it is kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/?sasl=MECHANISM], \
                    or kafka+tls:// with the rest the same";

/// How the user is shown to be who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

/// As they are written in the address.
const MECHANISMS: [(&str, Mechanism); 3] = [
    ("plain", Mechanism::Plain),
    ("scram-sha-256", Mechanism::ScramSha256),
    ("scram-sha-512", Mechanism::ScramSha512),
];

/// Who we are to the broker.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) mechanism: Mechanism,
}

/// What `broker.url` says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// `HOST:PORT`, with commas between; the first that answers names the others.
    pub(super) hosts: String,
    pub(super) tls: bool,
    pub(super) login: Option<Login>,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it and what it may be; nothing of the login is repeated.
    pub(super) fn read(url: &str) -> Result<Self, BrokerError> {
        let wrong = |what: &str| BrokerError(format!("broker.url: {what}; {FORM}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let tls = match scheme {
            "kafka" => false,
            "kafka+tls" => true,
            _ => return Err(wrong("neither kafka:// nor kafka+tls://")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let query = path.trim_start_matches('/');
        let query = match query.strip_prefix('?') {
            Some(query) => query,
            None if query.is_empty() => "",
            None => return Err(wrong("Kafka has no path (broker.prefix names the topics)")),
        };
        let mechanism = mechanism(query).map_err(|what| wrong(&what))?;
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let hosts: Result<Vec<_>, String> =
            hosts.split(',').map(|host| with_port(host, PORTS[usize::from(tls)])).collect();
        let login = match (login, mechanism) {
            (None, Some(_)) => return Err(wrong("`sasl` needs USER:PASSWORD@ before the host")),
            (None, None) => None,
            (Some(login), mechanism) => Some(read_login(login, mechanism).map_err(wrong)?),
        };
        Ok(Self { hosts: hosts.map_err(|what| wrong(&what))?.join(","), tls, login })
    }
}

fn mechanism(query: &str) -> Result<Option<Mechanism>, String> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != "sasl" {
            return Err(format!("`{key}` is no parameter of Kafka's; only `sasl` is"));
        }
        let named = MECHANISMS.iter().find(|(name, _)| *name == value);
        let allowed = MECHANISMS.map(|(name, _)| name).join(", ");
        found = Some(named.ok_or_else(|| format!("`sasl` is one of {allowed}"))?.1);
    }
    Ok(found)
}

fn with_port(host: &str, port: u16) -> Result<String, String> {
    let bare = |name: &str| !name.is_empty() && !name.contains([':', '[', ']', ' ']);
    // An IPv6 address stands in brackets, or its colons would be taken for the port's.
    let (name, given) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, "")) if !inner.is_empty() => (format!("[{inner}]"), None),
        Some((inner, rest)) if !inner.is_empty() => {
            (format!("[{inner}]"), Some(rest.strip_prefix(':').unwrap_or_default()))
        }
        Some(_) => return Err("empty brackets in a host".to_owned()),
        None => match host.split_once(':') {
            Some((name, given)) if bare(name) => (name.to_owned(), Some(given)),
            None if bare(host) => (host.to_owned(), None),
            // Not repeated: with a sign forgotten it could be the password.
            _ => return Err("a host is neither NAME, NAME:PORT nor [IPV6]:PORT".to_owned()),
        },
    };
    let given = given.map_or(Some(port), |given| given.parse().ok().filter(|port| *port != 0));
    let port = given.ok_or_else(|| format!("the port of `{name}` is not 1 to 65535"))?;
    Ok(format!("{name}:{port}"))
}

fn read_login(login: &str, mechanism: Option<Mechanism>) -> Result<Login, &'static str> {
    let (user, password) = login.split_once(':').ok_or("no password behind the user")?;
    let decoded = |text| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(String::from).map_err(|_| "the login is not UTF-8 once its %XX are read")
    };
    let (user, password) = (decoded(user)?, decoded(password)?);
    if user.is_empty() || password.is_empty() {
        return Err("an empty user or password");
    }
    Ok(Login { user, password, mechanism: mechanism.unwrap_or(Mechanism::Plain) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Address {
        Address::read(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn hosts_get_the_usual_port_and_keep_their_own() {
        for (url, hosts) in [
            ("kafka://one", "one:9092"),
            ("kafka://one/", "one:9092"),
            ("kafka+tls://one", "one:9093"),
            ("kafka://one:1,two,three:3", "one:1,two:9092,three:3"),
            ("kafka://[::1]", "[::1]:9092"),
            ("kafka://[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(read(url).hosts, hosts, "{url}");
        }
    }

    #[test]
    fn a_login_may_hold_any_character_and_names_its_mechanism() {
        let address = read("kafka+tls://ann:p%40ss:w%2Frd@one:1/?sasl=scram-sha-512");
        assert!(address.tls);
        let login = address.login.expect("a login");
        assert_eq!((&*login.user, &*login.password), ("ann", "p@ss:w/rd"));
        assert_eq!(login.mechanism, Mechanism::ScramSha512);
        let plain = read("kafka://ann:pass@one").login.expect("a login");
        assert_eq!(plain.mechanism, Mechanism::Plain);
        assert!(read("kafka://one?").login.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed_and_without_the_password() {
        for (url, says) in [
            ("one:9092", "no scheme"),
            ("amqp://ann:secret@one", "neither kafka://"),
            ("kafka://ann:secret@", "a host is neither"),
            ("kafka://ann:secret@one:0", "not 1 to 65535"),
            ("kafka://ann:secret@one:x", "not 1 to 65535"),
            ("kafka://ann:secret@one,", "a host is neither"),
            ("kafka://::1", "a host is neither"),
            ("kafka://[]:1", "empty brackets"),
            ("kafka://ann:secret@[::1]x", "not 1 to 65535"),
            ("kafka://ann:secret@one/topic", "broker.prefix"),
            ("kafka://ann:secret@one/?sasl=gssapi", "plain, scram-sha-256, scram-sha-512"),
            ("kafka://ann:secret@one/?acks=1", "`acks` is no parameter"),
            ("kafka://secret@one", "no password"),
            ("kafka://:secret@one", "empty user"),
            ("kafka://secret:@one", "empty user or password"),
            ("kafka://one/?sasl=plain", "USER:PASSWORD@"),
            ("kafka://secret:%ff@one", "not UTF-8"),
        ] {
            let error = Address::read(url).err().unwrap_or_else(|| panic!("{url} is refused"));
            assert!(error.0.contains(says), "{url}: {error}");
            assert!(error.0.starts_with("broker.url: ") && error.0.contains(FORM), "{error}");
            assert!(!error.0.contains("secret"), "{url}: {error}");
        }
    }
}
