//! What `broker.url` says of NATS.
//!
//! In:    the URL.
//! Out:   hosts, credentials, whether TLS.
//! Never: resolves a name, or shows a password.

use percent_encoding::percent_decode_str;

use super::BrokerError;

/// Where to connect, and as whom.
#[derive(PartialEq, Eq)]
pub struct Target {
    /// `host` or `host:port`, as they stand in the URL; at least one.
    pub hosts: Vec<String>,
    /// A user and a password, or a token alone.
    pub login: Option<(String, Option<String>)>,
    /// The scheme was `tls`.
    pub tls: bool,
}

impl Target {
    /// `nats://[user:password@|token@]host[:port][,host[:port]]`, the same with `tls`.
    ///
    /// # Errors
    /// Another scheme, no host, a port that is none, credentials that are not UTF-8.
    pub fn parse(url: &str) -> Result<Self, BrokerError> {
        let wrong = |what: &str| {
            BrokerError(format!(
                "broker.url for NATS {what}: write nats://user:password@host:4222, \
                 nats://token@host, tls:// for TLS, several hosts with commas"
            ))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let tls = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return Err(wrong("has another scheme")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may hold an `@` that nobody escaped; a host may not.
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, rest),
        };
        let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
            return Err(wrong(&format!("names `{host}`, which is no host")));
        }
        let login = login.map(read_login).transpose();
        let login = login.map_err(|()| wrong("has credentials that are not UTF-8"))?;
        Ok(Self { hosts, login, tls })
    }

    /// How many hosts, for sharing out time.
    pub fn hosts_count(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }
}

fn read_login(login: &str) -> Result<(String, Option<String>), ()> {
    let decode =
        |part: &str| percent_decode_str(part).decode_utf8().map(String::from).map_err(|_| ());
    match login.split_once(':') {
        Some((user, password)) => Ok((decode(user)?, Some(decode(password)?))),
        None => Ok((decode(login)?, None)),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // The last colon of an IPv6 address in brackets is no port's.
        Some((_, after)) if after.ends_with(']') => (host, None),
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.[]:".contains(&byte);
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    !name.is_empty() && name.bytes().all(of_name) && port_is_one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<String> {
        Target::parse(url).map(|target| target.hosts).expect(url)
    }

    #[test]
    fn hosts_stand_between_commas() {
        assert_eq!(hosts("nats://localhost"), ["localhost"]);
        assert_eq!(hosts("nats://a:1,b,[::1]:3,[::1]/"), ["a:1", "b", "[::1]:3", "[::1]"]);
        assert!(Target::parse("tls://a").is_ok_and(|target| target.tls));
    }

    #[test]
    fn credentials_are_a_user_with_a_password_or_a_token() {
        let login = |url| Target::parse(url).expect(url).login;
        assert_eq!(login("nats://h"), None);
        let pair = |user: &str, password: &str| Some((user.into(), Some(password.into())));
        assert_eq!(login("nats://u:p%40ss@h,i"), pair("u", "p@ss"));
        assert_eq!(login("nats://u:p@ss@h"), pair("u", "p@ss"), "not escaped, but clear");
        assert_eq!(login("nats://t0k%2Fen@h"), Some(("t0k/en".into(), None)));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_the_password() {
        for url in [
            "nats://",
            "nats://a,",
            "nats://a:0",
            "nats://a:x",
            "redis://a",
            "a",
            "nats://u:s3cret@",
        ] {
            let error = Target::parse(url).err().expect(url).0;
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
