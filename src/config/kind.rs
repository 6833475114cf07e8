//! Turns one given value into a field of the configuration, or into words about why not.
//!
//! In:    a TOML value, or the text of an environment variable or flag.
//! Out:   the field set, and the value's spelling in TOML; or a `Fault`.
//! Never: knows where a value came from, or another key.
//!
//! # Invariants
//! - A fault leaves the configuration as it was.
//! - The spelling that is returned is TOML that sets the same value.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml_edit::Value;

use super::unit::{parse_bytes, parse_time, show_bytes, show_time};
use super::url::{self, BrokerUrl};
use super::{Config, Secret};
use crate::proxy::{BadNetwork, Network};

/// Addresses one listener may have: each costs a socket a shard.
const ADDRESSES_MAX: usize = 64;
/// Networks that a list may have: each is compared with the address of every connection.
const NETWORKS_MAX: usize = 64;
/// Bytes of a secret: it travels in a header of every request.
const SECRET_BYTES_MAX: usize = 256;
/// Bytes of a name: NATS and Kafka take longer ones, with what is put behind it.
const NAME_BYTES_MAX: usize = 64;
/// What is printed in place of a secret, and may therefore not be one.
pub(super) const SECRET_SHOWN: &str = "***";

/// One of a few words, and what it sets.
pub(super) type Word = (&'static str, fn(&mut Config));

/// What a key takes, with its range, and the field that it sets.
pub enum Kind {
    /// One or more `ADDRESS:PORT`.
    Addresses(fn(&mut Config, Vec<SocketAddr>)),
    /// One `ADDRESS:PORT`.
    Address(fn(&mut Config, SocketAddr)),
    /// One or more networks (`10.0.0.0/8`) or addresses, or `none`.
    Networks(fn(&mut Config, Vec<Network>)),
    /// A number.
    Count(usize, usize, fn(&mut Config, usize)),
    /// A number, or a word for "no number".
    CountOr(&'static str, usize, usize, fn(&mut Config, Option<usize>)),
    /// Bytes.
    Bytes(usize, usize, fn(&mut Config, usize)),
    /// Bytes, or a word for "no number".
    BytesOr(&'static str, usize, usize, fn(&mut Config, Option<usize>)),
    /// A time.
    Time(Duration, Duration, fn(&mut Config, Duration)),
    /// `true` or `false`.
    Flag(fn(&mut Config, bool)),
    /// One of a few words.
    Words(&'static [Word]),
    /// A secret that is never shown, or `none`.
    Secret(fn(&mut Config, Option<Secret>)),
    /// A broker's URL, whose secrets are never shown, or `none`.
    Broker(fn(&mut Config, Option<BrokerUrl>)),
    /// A `HOST:PORT` that is looked up later, or `none`.
    Target(fn(&mut Config, Option<String>)),
    /// A word that every broker takes as a name.
    Name(fn(&mut Config, String)),
    /// A file, or `none`.
    File(fn(&mut Config, Option<PathBuf>)),
    /// A folder, or `none`.
    Folder(fn(&mut Config, Option<PathBuf>)),
}

/// A value as it was given.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// In a file.
    Toml(&'a Value),
    /// In the environment or in a flag: read as TOML where it is TOML of the wanted type, else
    /// taken as it stands; a list may be written with commas.
    Text(&'a str),
}

/// Why a value was refused; the key's `Kind::allowed` completes the sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is wrong with it, in a few words; empty where it is simply not of the kind.
    pub reason: &'static str,
    /// What to write instead, where that can be said.
    pub remedy: Option<String>,
}

impl Fault {
    fn other() -> Self {
        Self { reason: "", remedy: None }
    }

    fn because(reason: &'static str) -> Self {
        Self { reason, remedy: None }
    }

    fn write(reason: &'static str, remedy: String) -> Self {
        Self { reason, remedy: Some(remedy) }
    }
}

impl<'a> Given<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Toml(value) => value.as_str().map(Cow::Borrowed),
            Self::Text(text) => match text.parse::<Value>() {
                Ok(Value::String(quoted)) => Some(Cow::Owned(quoted.into_value())),
                _ => Some(Cow::Borrowed(text)),
            },
        }
    }

    fn integer(self) -> Option<i64> {
        match self {
            Self::Toml(value) => value.as_integer(),
            Self::Text(text) => text.trim().parse::<Value>().ok()?.as_integer(),
        }
    }

    fn flag(self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }

    fn list(self) -> Option<Vec<String>> {
        let strings = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|item| Some(item.as_str()?.to_owned())).collect()
        };
        match self {
            Self::Toml(Value::String(one)) => Some(vec![one.value().clone()]),
            Self::Toml(value) => strings(value),
            Self::Text(text) => match text.parse::<Value>() {
                Ok(value @ Value::Array(_)) => strings(&value),
                Ok(Value::String(one)) => Some(vec![one.into_value()]),
                _ => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
            },
        }
    }

    /// The value as it is shown to the operator who wrote it, on one short line.
    pub(super) fn shown(self) -> String {
        let text = match self {
            Self::Toml(value) => value.clone().decorated("", "").to_string(),
            Self::Text(text) => quoted(text),
        };
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.chars().count() <= 60 {
            return line;
        }
        format!("{}...", line.chars().take(57).collect::<String>())
    }
}

/// A string as TOML spells it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn ranged<T: PartialOrd>(value: T, least: &T, most: &T) -> Result<T, Fault> {
    if value < *least {
        return Err(Fault::because("too small"));
    }
    if value > *most {
        return Err(Fault::because("too large"));
    }
    Ok(value)
}

fn count(given: Given<'_>, least: usize, most: usize) -> Result<usize, Fault> {
    let number = given.integer().ok_or_else(Fault::other)?;
    let number = usize::try_from(number).map_err(|_| Fault::because("too small"))?;
    ranged(number, &least, &most)
}

fn bytes(given: Given<'_>, least: usize, most: usize) -> Result<usize, Fault> {
    let number = match given.integer() {
        Some(number) => usize::try_from(number).map_err(|_| Fault::because("too small"))?,
        None => given.text().and_then(|text| parse_bytes(&text)).ok_or_else(Fault::other)?,
    };
    ranged(number, &least, &most)
}

fn time(given: Given<'_>, least: Duration, most: Duration) -> Result<Duration, Fault> {
    if let Some(number) = given.integer() {
        return Err(Fault::write("a time needs a unit", quoted(&format!("{number}s"))));
    }
    let time = given.text().and_then(|text| parse_time(&text)).ok_or_else(Fault::other)?;
    ranged(time, &least, &most)
}

fn address(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.rsplit(':').next().unwrap_or_default();
    let host = text.strip_suffix(port).unwrap_or_default().trim_end_matches(':');
    if port.parse::<u16>().is_ok() {
        let remedy = match host {
            "localhost" => format!("\"127.0.0.1:{port}\""),
            "" | "*" => format!("\"127.0.0.1:{port}\" or, for all interfaces, \"0.0.0.0:{port}\""),
            _ => format!("the address itself, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        };
        return Err(Fault::write("no IP address", remedy));
    }
    Err(Fault::because("no ADDRESS:PORT"))
}

fn addresses(given: Given<'_>) -> Result<Vec<SocketAddr>, Fault> {
    let list = given.list().ok_or_else(Fault::other)?;
    if list.is_empty() {
        return Err(Fault::because("an empty list"));
    }
    if list.len() > ADDRESSES_MAX {
        return Err(Fault::because("too many addresses"));
    }
    let mut all: Vec<SocketAddr> = Vec::with_capacity(list.len());
    for text in list {
        let next = address(&text)?;
        if next.port() != 0 && all.contains(&next) {
            return Err(Fault::because("the same address twice"));
        }
        all.push(next);
    }
    Ok(all)
}

fn network(text: &str) -> Result<Network, Fault> {
    text.parse().map_err(|why| match why {
        BadNetwork::Malformed => Fault::because("no address and no network"),
        BadNetwork::TooLong => Fault::because("a prefix longer than an address"),
        BadNetwork::Everybody => {
            Fault::because("everybody would be trusted, and could name any address")
        }
        BadNetwork::HostBits(meant) => {
            let address = text.split('/').next().unwrap_or(text);
            let remedy = format!("{} or {}", quoted(&meant.to_string()), quoted(address));
            Fault::write("bits behind the prefix are set", remedy)
        }
    })
}

fn networks(given: Given<'_>) -> Result<Vec<Network>, Fault> {
    let list = given.list().ok_or_else(Fault::other)?;
    if list.is_empty() {
        return Err(Fault::write("an empty list", quoted("none")));
    }
    if list == ["none"] {
        return Ok(Vec::new());
    }
    if list.len() > NETWORKS_MAX {
        return Err(Fault::because("too many networks"));
    }
    list.iter().map(|text| network(text)).collect()
}

/// Sets a list; answers with its spelling, in which one element stands for itself.
fn set_list<T: ToString>(
    list: Vec<T>,
    set: fn(&mut Config, Vec<T>),
    config: &mut Config,
) -> String {
    let texts: Vec<_> = list.iter().map(|one| quoted(&one.to_string())).collect();
    set(config, list);
    match &texts[..] {
        [] => quoted("none"),
        [one] => one.clone(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

fn secret(given: Given<'_>) -> Result<Option<Secret>, Fault> {
    let text = given.text().ok_or_else(Fault::other)?;
    if text == "none" {
        return Ok(None);
    }
    if text == SECRET_SHOWN {
        return Err(Fault::because("the mark that `config show` prints instead of the secret"));
    }
    // RFC 6750 section 2.1: the token of `Authorization: Bearer` has no space in it.
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > SECRET_BYTES_MAX || !visible {
        return Err(Fault::other());
    }
    Ok(Some(Secret(text.into_owned())))
}

/// What a broker's names may begin with: NATS wants no empty part between dots, and Kafka and Redis
/// each have signs of their own.
fn name(given: Given<'_>) -> Result<String, Fault> {
    let text = given.text().ok_or_else(Fault::other)?;
    let fits = |part: &str| {
        let right = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !part.is_empty() && part.bytes().all(right)
    };
    if text.len() > NAME_BYTES_MAX || !text.split('.').all(fits) {
        return Err(Fault::other());
    }
    Ok(text.into_owned())
}

fn broker(given: Given<'_>) -> Result<Option<BrokerUrl>, Fault> {
    let text = given.text().ok_or_else(Fault::other)?;
    if text == "none" {
        return Ok(None);
    }
    BrokerUrl::read(&text)
        .map(Some)
        .map_err(|wrong| Fault { reason: wrong, remedy: Some(url::example(&text)) })
}

/// Where to send: a name is looked up when it is used, for it may come to be known only then.
fn target(given: Given<'_>) -> Result<Option<String>, Fault> {
    let text = given.text().filter(|text| !text.is_empty()).ok_or_else(Fault::other)?;
    if text == "none" {
        return Ok(None);
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(Fault::write("a URL", quoted(rest)));
    }
    url::host(&text).map_err(Fault::because)?;
    // What stands behind the brackets of an IPv6 address, or behind a name.
    let behind = text.rsplit(']').next().unwrap_or_default();
    if !behind.contains(':') {
        let is_port = text.parse::<u16>().is_ok();
        let whole = if is_port { format!("127.0.0.1:{text}") } else { format!("{text}:8125") };
        return Err(Fault::write("not both, a host and a port", quoted(&whole)));
    }
    Ok(Some(text.into_owned()))
}

fn path(given: Given<'_>) -> Result<(Option<PathBuf>, String), Fault> {
    let text = given.text().filter(|text| !text.is_empty()).ok_or_else(Fault::other)?;
    Ok(((text != "none").then(|| PathBuf::from(&*text)), quoted(&text)))
}

impl Kind {
    /// Reads a value into the configuration; answers with its spelling in TOML.
    pub(super) fn read(&self, given: Given<'_>, config: &mut Config) -> Result<String, Fault> {
        match self {
            Self::Addresses(set) => Ok(set_list(addresses(given)?, *set, config)),
            Self::Networks(set) => Ok(set_list(networks(given)?, *set, config)),
            Self::Address(set) => {
                let one = address(&given.text().ok_or_else(Fault::other)?)?;
                set(config, one);
                Ok(quoted(&one.to_string()))
            }
            Self::Count(least, most, set) => {
                let number = count(given, *least, *most)?;
                set(config, number);
                Ok(number.to_string())
            }
            Self::CountOr(word, least, most, set) => {
                let number = unless_word(word, given, |given| count(given, *least, *most))?;
                set(config, number);
                Ok(number.map_or_else(|| quoted(word), |number| number.to_string()))
            }
            Self::Bytes(least, most, set) => {
                let number = bytes(given, *least, *most)?;
                set(config, number);
                Ok(quoted(&show_bytes(number)))
            }
            Self::BytesOr(word, least, most, set) => {
                let number = unless_word(word, given, |given| bytes(given, *least, *most))?;
                set(config, number);
                Ok(quoted(&number.map_or_else(|| (*word).to_owned(), show_bytes)))
            }
            Self::Time(least, most, set) => {
                let time = time(given, *least, *most)?;
                set(config, time);
                Ok(quoted(&show_time(time)))
            }
            Self::Flag(set) => {
                let flag = given.flag().ok_or_else(Fault::other)?;
                set(config, flag);
                Ok(flag.to_string())
            }
            Self::Words(words) => read_word(words, given, config),
            Self::Secret(set) => {
                let secret = secret(given)?;
                let text = quoted(secret.as_ref().map_or("none", Secret::expose));
                set(config, secret);
                Ok(text)
            }
            Self::Broker(set) => {
                let url = broker(given)?;
                let text = quoted(url.as_ref().map_or("none", BrokerUrl::expose));
                set(config, url);
                Ok(text)
            }
            Self::Target(set) => {
                let target = target(given)?;
                let text = quoted(target.as_deref().unwrap_or("none"));
                set(config, target);
                Ok(text)
            }
            Self::Name(set) => {
                let name = name(given)?;
                set(config, name.clone());
                Ok(quoted(&name))
            }
            Self::File(set) | Self::Folder(set) => {
                let (path, text) = path(given)?;
                set(config, path);
                Ok(text)
            }
        }
    }

    /// What the key takes, as a phrase: "a size from 4KiB to 1GiB".
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Addresses(_) => "an \"ADDRESS:PORT\" or a list of them (port 0: any)".into(),
            Self::Address(_) => "an \"ADDRESS:PORT\" (port 0: any)".into(),
            Self::Networks(_) => {
                "\"none\", an address, a network such as \"10.0.0.0/8\", or a list of them".into()
            }
            Self::Count(least, most, _) => format!("a number from {least} to {most}"),
            Self::CountOr(word, least, most, _) => {
                format!("\"{word}\" or a number from {least} to {most}")
            }
            Self::Bytes(least, most, _) => {
                format!("a size from {} to {}", show_bytes(*least), show_bytes(*most))
            }
            Self::BytesOr(word, least, most, _) => {
                let (least, most) = (show_bytes(*least), show_bytes(*most));
                format!("\"{word}\" or a size from {least} to {most}")
            }
            Self::Time(least, most, _) => {
                format!("a time from {} to {}", show_time(*least), show_time(*most))
            }
            Self::Flag(_) => "true or false".into(),
            Self::Words(words) => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                words.join(" or ")
            }
            Self::Secret(_) => {
                format!("\"none\" or 1 to {SECRET_BYTES_MAX} visible ASCII characters, no spaces")
            }
            Self::Broker(_) => url::allowed(),
            Self::Target(_) => "\"none\" or a \"HOST:PORT\"".into(),
            Self::Name(_) => {
                format!("1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, and dots between them")
            }
            Self::File(_) => "\"none\" or the path of a file".into(),
            Self::Folder(_) => "\"none\" or the path of a folder".into(),
        }
    }

    /// Whether values may hold what must never be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::Broker(_))
    }

    /// A value, spelled in TOML, without what must not be seen of it.
    pub(super) fn veiled(&self, spelled: &str) -> String {
        let text = spelled.parse::<Value>().ok().and_then(|v| v.as_str().map(str::to_owned));
        match (self, text.as_deref()) {
            (Self::Secret(_) | Self::Broker(_), Some("none")) => spelled.to_owned(),
            (Self::Broker(_), Some(url)) => quoted(&url::shown(url)),
            (Self::Secret(_) | Self::Broker(_), _) => quoted(SECRET_SHOWN),
            _ => spelled.to_owned(),
        }
    }
}

/// A number, unless the value is the word for none.
fn unless_word<'a>(
    word: &str,
    given: Given<'a>,
    read: impl Fn(Given<'a>) -> Result<usize, Fault>,
) -> Result<Option<usize>, Fault> {
    if given.text().is_some_and(|text| text.trim() == word) {
        return Ok(None);
    }
    read(given).map(Some)
}

fn read_word(words: &[Word], given: Given<'_>, config: &mut Config) -> Result<String, Fault> {
    let text = given.text().ok_or_else(Fault::other)?;
    if let Some((word, set)) = words.iter().find(|(word, _)| *word == text) {
        set(config);
        return Ok(quoted(word));
    }
    let near = super::problem::did_you_mean(&text, words.iter().map(|(word, _)| *word));
    Err(Fault { reason: "", remedy: near.map(quoted) })
}
