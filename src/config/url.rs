//! Reads a broker's URL: which broker, whether TLS, and what may be shown of it.
//!
//! In:    the text that an operator wrote.
//! Out:   [`BrokerUrl`], or what is wrong with it.
//! Never: shows a password or a token, in whatever form it was written.
//!
//! # Invariants
//! - A URL that was read has a known scheme, and a host everywhere where one belongs.

use std::fmt;

use super::kind::{SECRET_SHOWN, quoted};

/// A kind of broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// `redis` and its variants.
    Redis,
    /// `nats`, `tls`.
    Nats,
    /// `amqp`, `amqps`.
    RabbitMq,
    /// `kafka`, `kafka+tls`.
    Kafka,
}

impl Broker {
    /// The cargo feature that builds it in.
    #[must_use]
    pub fn feature(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::RabbitMq => "rabbitmq",
            Self::Kafka => "kafka",
        }
    }

    /// Whether this binary has it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Redis => cfg!(feature = "redis"),
            Self::Nats => cfg!(feature = "nats"),
            Self::RabbitMq => cfg!(feature = "rabbitmq"),
            Self::Kafka => cfg!(feature = "kafka"),
        }
    }
}

/// Schemes: the broker, whether it speaks TLS.
const SCHEMES: &[(&str, Broker, bool)] = &[
    ("redis", Broker::Redis, false),
    ("rediss", Broker::Redis, true),
    ("redis+cluster", Broker::Redis, false),
    ("rediss+cluster", Broker::Redis, true),
    ("redis+sentinel", Broker::Redis, false),
    ("rediss+sentinel", Broker::Redis, true),
    ("nats", Broker::Nats, false),
    ("tls", Broker::Nats, true),
    ("amqp", Broker::RabbitMq, false),
    ("amqps", Broker::RabbitMq, true),
    ("kafka", Broker::Kafka, false),
    ("kafka+tls", Broker::Kafka, true),
];

/// What the key takes, as a phrase.
pub(super) fn allowed() -> String {
    "\"none\" or a URL: redis, nats, amqp or kafka://HOST:PORT, with TLS rediss, tls, amqps or \
     kafka+tls"
        .to_owned()
}

/// A right URL that is like a wrong one.
pub(super) fn example(text: &str) -> String {
    let scheme = text.split(':').next().unwrap_or_default();
    let known = SCHEMES.iter().map(|(name, ..)| *name);
    let near = super::problem::did_you_mean(scheme, known).unwrap_or("redis");
    let rest = match near {
        "redis+sentinel" | "rediss+sentinel" => "127.0.0.1:26379/MASTER",
        _ if near.starts_with("redis") => "127.0.0.1:6379",
        "nats" | "tls" => "127.0.0.1:4222",
        "amqp" => "127.0.0.1:5672",
        "amqps" => "127.0.0.1:5671",
        _ => "127.0.0.1:9092",
    };
    quoted(&format!("{near}://{rest}"))
}

/// The URL without what must not be seen: of what stands before the last `@` the user alone, and
/// that only where a password follows (else it may be a token); of a query nothing.
#[must_use]
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, q)| (rest, Some(q)));
    let mut text = match rest.rsplit_once('@') {
        None => format!("{scheme}://{rest}"),
        // A list may have one of each host: what stands before the first `@` is the first's.
        Some((user, hosts)) => match user.split('@').next().and_then(|user| user.split_once(':')) {
            Some((name, password)) if !password.is_empty() => {
                format!("{scheme}://{name}:{SECRET_SHOWN}@{hosts}")
            }
            _ => format!("{scheme}://{SECRET_SHOWN}@{hosts}"),
        },
    };
    if query.is_some() {
        text = format!("{text}?{SECRET_SHOWN}");
    }
    text
}

/// `broker.url`.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    text: String,
    broker: Broker,
    tls: bool,
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.text))
    }
}

impl BrokerUrl {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of it.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("no SCHEME://HOST:PORT");
        };
        let Some((_, broker, tls)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
            return Err("an unknown scheme");
        };
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err("a space or a sign that is no ASCII; write it as %20 and the like");
        }
        if text.contains(SECRET_SHOWN) {
            return Err("the mark that `config show` prints instead of the secret");
        }
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
        let (hosts, path) =
            hosts.split_once('/').map_or((hosts, ""), |(hosts, path)| (hosts, path));
        hosts.split(',').try_for_each(host)?;
        if scheme.ends_with("+sentinel") && path.is_empty() {
            return Err("no name of the master behind the sentinels' addresses");
        }
        Ok(Self { text: text.to_owned(), broker: *broker, tls: *tls })
    }

    /// Which broker.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.broker
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// The whole text, secrets and all.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

/// `HOST` or `HOST:PORT`.
pub(super) fn host(text: &str) -> Result<(), &'static str> {
    let (host, port) = match text.rfind(']') {
        // An IPv6 address has colons of its own.
        Some(end) => (&text[..=end], text[end + 1..].strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("no host");
    }
    if host.starts_with('[') {
        let address = host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>();
        return address.map(drop).map_err(|_| "no IPv6 address between the brackets");
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if !host.bytes().all(plain) {
        return Err("a host that is no name and no address");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(_) => Err("a port that is no number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_is_known_and_its_example_is_right() {
        for (scheme, broker, tls) in SCHEMES {
            let example = example(&format!("{scheme}://"));
            let url = BrokerUrl::read(example.trim_matches('"')).unwrap();
            assert_eq!((url.broker(), url.has_tls()), (*broker, *tls), "{example}");
            assert!(example.starts_with(&format!("\"{scheme}://")), "{example}");
        }
    }

    #[test]
    fn what_is_right_is_taken_whole() {
        for url in [
            "redis://127.0.0.1",
            "redis://ann:p%40ss@db.example:6379/2",
            "nats://token@a:4222,b:4222",
            "redis+sentinel://[::1]:26379,b:26379/main",
            "amqp://guest:guest@h:5672/%2f?heartbeat=5",
        ] {
            assert_eq!(BrokerUrl::read(url).unwrap().expose(), url);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, said) in [
            ("sesame", "no SCHEME"),
            ("http://h", "unknown scheme"),
            ("redis://", "no host"),
            ("redis://ann:sesame@", "no host"),
            ("redis://h:port", "a port"),
            ("redis://h:0", "a port"),
            ("redis://h:70000", "a port"),
            ("redis://h:1:2", "a port"),
            ("redis://a,,b", "no host"),
            ("redis://[::x]:1", "IPv6"),
            ("redis://ann:sesame@h h", "space"),
            ("redis://ann:***@h", "mark"),
            ("redis+sentinel://h:1", "master"),
        ] {
            let wrong = BrokerUrl::read(url).unwrap_err();
            assert!(wrong.contains(said) && !wrong.contains("sesame"), "{url}: {wrong}");
        }
    }
}
