//! Shows a broker's URL without what must not be seen of it.
//!
//! In:    the URL; texts of client libraries, which may quote it.
//! Out:   the same without passwords and tokens.
//! Never: shows what stands before the last `@`, but for the name of a user who has a password.

use percent_encoding::percent_decode_str;

use crate::config::shown_url;

/// What stands in place of a secret.
const SHOWN: &str = "***";
/// Shorter secrets are not looked for in texts: they stand in every second word.
const SEARCHED_BYTES_MIN: usize = 4;

/// A URL whose secrets are known.
#[derive(Clone)]
pub struct Secrets {
    shown: String,
    secrets: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Secrets {
    /// Of a URL that has been checked.
    #[must_use]
    pub fn of(url: &str) -> Self {
        let (rest, query) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
        let mut secrets = Vec::new();
        if let Some((user, _)) = rest.rsplit_once('@') {
            let user = user.split_once("://").map_or(user, |(_, user)| user);
            secrets.push(user.to_owned());
            secrets.extend(user.split_once(':').map(|(_, password)| password.to_owned()));
            // Each host of a list may have its own.
            for part in user.split('@') {
                let part = part.rsplit("//").next().unwrap_or(part);
                // A user without a password is a token, with the colon or without.
                let secret = part.strip_suffix(':').or_else(|| part.rsplit(':').next());
                secrets.extend(secret.map(str::to_owned));
            }
        }
        let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        secrets.extend(values.map(|(_, value)| value.to_owned()));
        // Client libraries may quote what they have decoded.
        let decoded: Vec<String> = secrets
            .iter()
            .map(|secret| percent_decode_str(secret).decode_utf8_lossy().into_owned())
            .collect();
        secrets.extend(decoded);
        secrets.push(url.to_owned());
        secrets.retain(|secret| secret.len() >= SEARCHED_BYTES_MIN);
        // The longest first: a part of it would leave the rest standing.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { shown: shown_url(url), secrets }
    }

    /// The URL, to be shown.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A text without the URL's secrets.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        let hide = |text: String, secret: &String| text.replace(secret, SHOWN);
        self.secrets.iter().fold(text.to_owned(), hide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_shown_and_the_password_is_not() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
            ("redis://ann:sesame@h:1", "redis://ann:***@h:1"),
            ("redis://:sesame@h:1", "redis://:***@h:1"),
            ("nats://sesame@h:1,i:2", "nats://***@h:1,i:2"),
            ("nats://sesame:@h:1", "nats://***@h:1"),
            ("nats://sesame:@h:1,nats://sesame:@i:2", "nats://***@i:2"),
            ("nats://sesame@h:1,nats://sesame@i:2", "nats://***@i:2"),
            ("nats://ann:sesa@me@h:1", "nats://ann:***@h:1"),
            ("nats://ann:sesame@h:1,nats://bob:sesame@i:2", "nats://ann:***@i:2"),
            ("amqp://h/v?password=sesame", "amqp://h/v?***"),
        ] {
            let secrets = Secrets::of(url);
            assert_eq!(secrets.shown(), shown);
            let said = secrets.hide(&format!("cannot reach {url}: sesame is wrong"));
            assert!(!said.contains("sesame") || !url.contains("sesame"), "{said}");
        }
    }

    #[test]
    fn what_a_library_has_decoded_is_hidden_too() {
        for url in ["nats://open%2Fsesame@h", "redis://ann:open%2Fsesame@h"] {
            let said = Secrets::of(url).hide("user `open/sesame` is wrong");
            assert_eq!(said, "user `***` is wrong");
        }
    }
}
