//! Reads `broker.url` of a Redis: which servers, which kind, which credentials, which TLS.
//!
//! In:    `redis://USER:PASSWORD@HOST:PORT/DATABASE`, its kinds with `+cluster` and `+sentinel`
//!        (there several hosts, with commas; a sentinel's path is the primary's name), `rediss` for
//!        TLS.
//! Out:   hosts, and clients for them.
//! Never: connects; shows a password.

use std::path::Path;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult,
    TlsCertificates,
};

use crate::broker::{BrokerError, Options, authorities};

const SHAPES: &str = "redis://HOST:PORT, redis+cluster://HOST:PORT,HOST:PORT or \
     redis+sentinel://HOST:PORT,HOST:PORT/NAME (rediss for TLS), with USER:PASSWORD@ before the \
     hosts where the server wants them";

/// How several Redis servers are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are not: one server.
    Single,
    /// Each has a part of the slots.
    Cluster,
    /// The hosts are sentinels, who know which server is the primary of this name.
    Sentinel(String),
}

impl Kind {
    /// What such a server that holds data says that it runs as.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Single | Self::Sentinel(_) => "standalone",
        }
    }
}

/// One host of the URL, or one that a server named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    /// Name or address, an IPv6 one without brackets.
    pub name: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// `broker.url`, read.
#[derive(Clone, Debug)]
pub struct Address {
    /// How the servers are one.
    pub kind: Kind,
    /// Where to begin; never empty.
    pub hosts: Vec<Host>,
    /// User, password, database.
    login: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
}

impl Address {
    /// Reads the URL and the authorities of `broker.ca`.
    ///
    /// # Errors
    /// The URL is no such one, or the file cannot be read.
    pub fn read(options: &Options) -> Result<Self, BrokerError> {
        let malformed = |what: &str| {
            BrokerError(format!("broker.url is no address of a Redis: {what}. Write {SHAPES}"))
        };
        let (scheme, rest) =
            options.url.split_once("://").ok_or_else(|| malformed("it has no scheme"))?;
        let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let secure = match plain {
            "redis" => false,
            "rediss" => true,
            _ => return Err(malformed(&format!("its scheme is {scheme}"))),
        };
        if rest.contains(['?', '#']) {
            return Err(malformed(
                "nothing may follow its path (a ? or # in a password is %3F, %23)",
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let (kind, database) = match kind {
            "" => (Kind::Single, path),
            "cluster" if matches!(path, "" | "0") => (Kind::Cluster, ""),
            "cluster" => return Err(malformed("a cluster has no databases")),
            "sentinel" if path.is_empty() => {
                return Err(malformed("the primary's name is missing after the sentinels"));
            }
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                (Kind::Sentinel(name.to_owned()), database)
            }
            _ => return Err(malformed(&format!("its scheme is {scheme}"))),
        };
        if kind == Kind::Single && hosts.contains(',') {
            return Err(malformed("it names several hosts, but neither a cluster nor sentinels"));
        }
        let sentinel = matches!(kind, Kind::Sentinel(_));
        let mut address = Self {
            kind,
            hosts: Vec::new(),
            login: RedisConnectionInfo::default(),
            tls: secure.then(|| certificates(options.ca.as_deref())).transpose()?,
        };
        for host in hosts.split(',') {
            let one = format!("redis://{login}{host}/{database}");
            // The reason does not go on: it may quote what is between the colons.
            let info = one.as_str().into_connection_info();
            let info =
                info.map_err(|_| malformed("a host, a port or the database cannot be read"))?;
            let ConnectionAddr::Tcp(name, port) = info.addr().clone() else {
                return Err(malformed("a host is missing"));
            };
            // Debian's and everybody's port of sentinels.
            let port = if sentinel && !has_port(host) { 26379 } else { port };
            address.hosts.push(Host { name, port });
            address.login = info.redis_settings().clone();
        }
        Ok(address)
    }

    /// A client of a server that holds data.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn client(&self, host: &Host) -> RedisResult<Client> {
        self.build(host, self.login.clone())
    }

    /// A client of a sentinel, which has no databases and seldom a password.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn sentinel(&self, host: &Host, with_password: bool) -> RedisResult<Client> {
        let login = if with_password { self.login.clone() } else { RedisConnectionInfo::default() };
        self.build(host, login.set_db(0))
    }

    /// The number of the database; 0 where the URL names none.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.login.db()
    }

    /// Whether there is a password to try.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.login.password().is_some()
    }

    fn build(&self, host: &Host, login: RedisConnectionInfo) -> RedisResult<Client> {
        let (name, port) = (host.name.clone(), host.port);
        let login = login.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        // A batch is one write; whoever waits for its acknowledgement must not wait for Nagle.
        let tcp = TcpSettings::default().set_nodelay(true);
        let addr = match self.tls {
            None => ConnectionAddr::Tcp(name, port),
            Some(_) => {
                ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None }
            }
        };
        let info = addr.into_connection_info()?.set_tcp_settings(tcp).set_redis_settings(login);
        match &self.tls {
            None => Client::open(info),
            Some(tls) => Client::build_with_tls(info, tls.clone()),
        }
    }
}

/// Whether a host of the URL names its port: what follows an IPv6 address's bracket, or a colon.
fn has_port(host: &str) -> bool {
    host.rsplit(']').next().is_some_and(|end| end.contains(':'))
}

fn certificates(ca: Option<&Path>) -> Result<TlsCertificates, BrokerError> {
    // The client asks for the process's provider; an error means that one is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = ca.map(authorities::read).transpose()?.map(String::into_bytes);
    Ok(TlsCertificates { client_tls: None, root_cert })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::Delivery;
    use crate::bridge::envelope::Node;

    fn read(url: &str) -> Result<Address, String> {
        let options = Options {
            url: url.to_owned(),
            delivery: Delivery::LocalFirst,
            prefix: "ringhall".to_owned(),
            ca: None,
            node: Node { id: 1, incarnation: 1 },
            keep: std::time::Duration::from_secs(60),
        };
        Address::read(&options).map_err(|error| error.0)
    }

    fn hosts(address: &Address) -> Vec<String> {
        address.hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_of_address_is_read() {
        let single = read("redis://ann:p%40ss@box:7000/3").expect("good");
        assert_eq!((single.kind.clone(), hosts(&single)), (Kind::Single, vec!["box:7000".into()]));
        assert_eq!((single.login.username(), single.login.password()), (Some("ann"), Some("p@ss")));
        assert_eq!(single.login.db(), 3);
        assert_eq!(hosts(&read("redis://box").expect("good")), ["box:6379"]);

        let cluster = read("redis+cluster://:secret@a:1,b,[::1]:3").expect("good");
        assert_eq!(cluster.kind, Kind::Cluster);
        assert_eq!(hosts(&cluster), ["a:1", "b:6379", "[::1]:3"]);
        assert_eq!(cluster.login.password(), Some("secret"));

        let sentinel = read("rediss+sentinel://a,[::1],b:2/main/4").expect("good");
        assert_eq!(sentinel.kind, Kind::Sentinel("main".into()));
        assert_eq!(hosts(&sentinel), ["a:26379", "[::1]:26379", "b:2"]);
        assert_eq!(sentinel.login.db(), 4);
        assert!(sentinel.tls.is_some());
    }

    #[test]
    fn a_malformed_address_is_refused_without_its_password() {
        for url in [
            "box:6379",
            "http://box",
            "redis+pool://box",
            "redis://:hunter2@a,b",
            "redis+sentinel://:hunter2@a",
            "redis+cluster://:hunter2@a/3",
            "redis://:hunter2@box:port",
            "redis://:hunter2@box/name",
            "redis://:hunter2@",
            "redis://box?protocol=resp2",
            "rediss://box#insecure",
        ] {
            let error = read(url).expect_err(url);
            assert!(error.contains("redis+sentinel://HOST"), "no remedy: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
