//! What a connection is made with. Credentials stay out of everything that can be printed.

use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;

use super::uri::{self, UriError};
use crate::error::Error;
use crate::policy::retry::RetryPolicy;
use crate::wire::name::Name;

/// Heartbeats every so many seconds; a dead peer is found after two intervals.
const HEARTBEAT: u16 = 10;
/// RabbitMQ's own default. Less would spare memory, but a
/// message's headers come in one frame, as large as their sender's connection allows: one that is
/// larger than agreed on here ends the connection, and comes again on the next.
const FRAME_MAX: u32 = 128 * 1024;
/// The longest that one attempt takes, unless set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// RabbitMQ's own default. Without a limit of ours, a broker that has none would let a
/// connection have 65,535.
const CHANNEL_MAX: u16 = 2047;

/// A broker's address, with what is asked for in its URI: frame-max, channel-max and heartbeat are
/// always bounded here, since a broker may leave them without a limit (0 in `connection.tune`).
///
/// `Display` and `Debug` show scheme, host and port alone: the rest is a secret, or where one may
/// stand by a slip of the pen.
#[derive(Clone)]
pub(super) struct Address(pub(super) AMQPUri);

impl Address {
    /// # Errors
    /// Says what is wrong with the URI without repeating any of it: it holds a password.
    pub(super) fn parse(uri: &str, heartbeat: Option<u16>) -> Result<Self, UriError> {
        let mut parsed = uri::parse(uri)?;
        let query = &mut parsed.query;
        query.heartbeat = heartbeat.or(query.heartbeat).or(Some(HEARTBEAT));
        query.frame_max = query.frame_max.or(Some(FRAME_MAX));
        query.channel_max = query.channel_max.or(Some(CHANNEL_MAX));
        Ok(Self(parsed))
    }

    /// Parses lists of addresses, each separated by commas.
    ///
    /// # Errors
    /// The first address that is wrong, named by its place where there are several.
    pub(super) fn parse_all<'a>(
        lists: impl Iterator<Item = &'a str>,
        heartbeat: Option<u16>,
    ) -> Result<Vec<Self>, Error> {
        let uris: Vec<_> = lists.flat_map(uri::split).collect();
        let parse = |(place, uri): (usize, &&str)| {
            Self::parse(uri, heartbeat).map_err(|error| {
                let which = if uris.len() > 1 {
                    format!(" of address {}", place + 1)
                } else {
                    String::new()
                };
                Error::invalid(format!(
                    "the URI{which} is not an AMQP URI (amqp://user:password@host:port/vhost): {error}"
                ))
            })
        };
        uris.iter().enumerate().map(parse).collect()
    }

    /// The limit of one attempt that its URI asks for.
    fn connect_timeout(&self) -> Option<Duration> {
        self.0.query.connection_timeout.map(Duration::from_millis)
    }

    /// Takes out of a broker's words the names that are part of the URI: with a virtual host or a
    /// user refused, it repeats them.
    pub(super) fn redact(&self, text: &str) -> String {
        let AMQPUri {
            authority, vhost, ..
        } = &self.0;
        let (user, password) = (&authority.userinfo.username, &authority.userinfo.password);
        let mut text = text.to_owned();
        for secret in [password, user, vhost] {
            text = redact_word(&text, secret);
        }
        text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri {
            scheme, authority, ..
        } = &self.0;
        let (host, port) = (&authority.host, authority.port);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Replaces a name where it stands by itself: a virtual host may be called `a`, or `/`.
fn redact_word(text: &str, name: &str) -> String {
    let is_letter = |each: Option<char>| each.is_some_and(char::is_alphanumeric);
    let (mut redacted, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(name).filter(|_| !name.is_empty()) {
        let (before, from) = rest.split_at(at);
        let after = from.strip_prefix(name).unwrap_or_default();
        let last = before.chars().next_back().or(redacted.chars().next_back());
        redacted.push_str(before);
        let stands_alone = !is_letter(last) && !is_letter(after.chars().next());
        redacted.push_str(if stands_alone { "…" } else { name });
        rest = after;
    }
    redacted + rest
}

/// The runtime on which a connection reads and writes its sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Io {
    /// On a thread of the connection's own: a handler that blocks its thread, or a runtime that is
    /// busy, costs no heartbeats and no time-outs of others. The default.
    #[default]
    Own,
    /// On the tokio runtime that the connection is opened on. A call at a time is faster so, because
    /// a reply is read on the runtime that waits for it; but handlers that hold every thread of that
    /// runtime for two heartbeat intervals cost the connection.
    Shared,
}

/// Certificates of a TLS connection, in PEM.
#[derive(Clone, Default)]
pub(super) struct TlsSettings {
    pub(super) authorities: Option<String>,
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) addresses: Vec<Address>,
    pub(super) name: String,
    /// Whether the user has named it.
    pub(super) is_named: bool,
    /// As the builder says; `None` leaves it to each address.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) backoff: RetryPolicy,
    pub(super) max_message: usize,
    pub(super) tls: TlsSettings,
    pub(super) namespace: Option<Name>,
}

impl Settings {
    /// How long one attempt at an address may take.
    pub(super) fn connect_timeout(&self, address: &Address) -> Duration {
        let asked = self.connect_timeout.or(address.connect_timeout());
        asked.unwrap_or(CONNECT_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let address = Address::parse("amqp://hare:secret@broker:5673/fields", None).unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            "amqp://broker:5673 ".repeat(2).trim()
        );
    }

    #[test]
    fn what_is_negotiated_is_always_bounded() {
        let address = Address::parse("amqp://localhost/", None).unwrap();
        let query = &address.0.query;
        assert_eq!(query.heartbeat, Some(HEARTBEAT));
        assert_eq!(query.frame_max, Some(FRAME_MAX));
        assert_eq!(query.channel_max, Some(CHANNEL_MAX));
        let address = Address::parse("amqp://localhost?heartbeat=7", Some(8)).unwrap();
        assert_eq!(
            address.0.query.heartbeat,
            Some(8),
            "the builder has the word"
        );
    }

    #[test]
    fn a_brokers_words_are_shown_without_names_of_ours() {
        let uri = "amqp://guest:s3cret@broker/no";
        let address = Address::parse(uri, None).unwrap();
        for (words, shown) in [
            (
                "NOT_ALLOWED - vhost no not found",
                "NOT_ALLOWED - vhost … not found",
            ),
            (
                "access to vhost 'no' refused for user 'guest'",
                "access to vhost '…' refused for user '…'",
            ),
            ("none", "none"),
            ("s3cret", "…"),
        ] {
            assert_eq!(address.redact(words), shown);
        }
    }

    const SPELLINGS: &[&str] = &[
        "amqp://hare:{}@broker:5672/fields",
        "amqps://hare:{}@broker/",
        "hare:{}@broker:5672/fields",
        "amqp:hare:{}@broker",
        "amqp:/hare:{}@broker/",
        "amqp:///hare:{}@broker/",
        "amqp://hare:/{}@broker",
        "amqp://hare:1/{}@broker",
        "amqp://hare:1?{}@broker",
        "amqp://hare:1?{}=@broker",
        "amqp://hare:1#{}@broker",
        "amqp://hare@{}@broker",
        "amqp://{}@broker",
        "amqp://{}:{}@broker",
        "amqp://broker/{}",
        "amqp://hare:{}@broker,hare:{}@broker",
        "amqp://hare:{}@broker,amqp://hare:{}@broker",
        "amqp://hare:{}@[::1]:5672",
        "amqp://hare:{}@[::1",
        "amqp://hare:{}@broker:{}",
        "amqp://hare:{}@broker?heartbeat={}",
        "amqp://hare:{}@broker?auth_mechanism={}",
    ];

    proptest! {
        /// Whatever the password, and wherever it is put by mistake.
        #[test]
        fn no_password_is_ever_shown(
            password in "[!-~]{6,20}|\\PC{6,20}",
            spelling in 0..SPELLINGS.len(),
        ) {
            // With a letter and a digit after it that no text of ours has.
            let password = format!("{password}q7");
            let uri = SPELLINGS[spelling].replace("{}", &password);
            let shown = match Address::parse_all([&*uri].into_iter(), None) {
                Ok(addresses) => format!("{addresses:?}{}", addresses[0]),
                Err(error) => format!("{error}{error:?}"),
            };
            prop_assert!(!shown.contains(&password), "{}", shown);
            prop_assert!(!shown.contains("q7"), "{}", shown);
        }
    }
}
