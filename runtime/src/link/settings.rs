//! Settings of a connection. Neither `Debug` nor `Display` of any type here shows credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;

use super::frame::DEFAULT_FRAME_MAX;
use super::uri::{self, UriError};
use crate::context::PropagatedHeaders;
use crate::error::Error;
use crate::observe::Hooks;
use crate::policy::retry::RetryPolicy;
use crate::wire::name::Name;

/// The default heartbeat interval in seconds. A dead peer is detected after two intervals.
const HEARTBEAT: u16 = 10;
/// The default limit of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default channel_max, which is also RabbitMQ's. Without it, a connection to a broker without a
/// limit could open 65,535 channels.
const CHANNEL_MAX: u16 = 2047;

/// A broker's address and the parameters of its URI. frame_max, channel_max and heartbeat are always
/// set, because a broker may offer no limit for them (0 in `connection.tune`).
///
/// `Display` and `Debug` show scheme, host and port only. The other parts are secrets, or may contain one
/// in a URI that is misspelt.
#[derive(Clone)]
pub(super) struct BrokerAddress(pub(super) AMQPUri);

impl BrokerAddress {
    /// Parses a URI; `heartbeat` takes precedence over its parameter.
    ///
    /// # Errors
    /// The mistake, without any part of the URI, which contains a password.
    pub(super) fn parse(uri: &str, heartbeat: Option<u16>) -> Result<Self, UriError> {
        let mut parsed = uri::parse(uri)?;
        let query = &mut parsed.query;
        query.heartbeat = heartbeat.or(query.heartbeat).or(Some(HEARTBEAT));
        // A smaller default than RabbitMQ's would save memory, but the headers of a message are sent in one
        // frame, which may be as large as the frame_max of their publisher's connection. A frame above our
        // own limit would end the connection, and the message would be delivered again on the next one.
        query.frame_max = query.frame_max.or(Some(DEFAULT_FRAME_MAX));
        query.channel_max = query.channel_max.or(Some(CHANNEL_MAX));
        Ok(Self(parsed))
    }

    /// Parses lists of addresses, which are separated by commas in each list.
    ///
    /// # Errors
    /// The mistake in the first URI that is not valid. If there are several, it is identified by its
    /// position.
    pub(super) fn parse_all<'a>(
        lists: impl Iterator<Item = &'a str>,
        heartbeat: Option<u16>,
    ) -> Result<Vec<Self>, Error> {
        let uris: Vec<_> = lists.flat_map(uri::split).collect();
        let parse = |(position, uri): (usize, &&str)| {
            Self::parse(uri, heartbeat).map_err(|error| {
                let which = if uris.len() > 1 {
                    format!(" of address {}", position + 1)
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

    /// The `connection_timeout` of the URI.
    fn connect_timeout(&self) -> Option<Duration> {
        self.0.query.connection_timeout.map(Duration::from_millis)
    }

    /// Removes user, password and virtual host from a text of the broker, which names the user and the
    /// virtual host that it refuses.
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

impl fmt::Display for BrokerAddress {
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

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Replaces a name where it is a word of its own: a virtual host may be called `a`, or `/`.
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
    /// A runtime with one thread of the connection's own. Handlers that block their threads, or a busy
    /// runtime, do not delay heartbeats or other calls. The default.
    #[default]
    Own,
    /// The tokio runtime on which the connection is opened. Single calls have a lower latency, because a
    /// reply is read on the runtime that waits for it. But if handlers block all threads of that
    /// runtime for two heartbeat intervals, the broker closes the connection.
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

/// The settings of a connection, checked.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) addresses: Vec<BrokerAddress>,
    pub(super) name: String,
    /// Whether the user has set the name.
    pub(super) is_named: bool,
    /// The limit set on the builder; `None` leaves it to each address.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) backoff: RetryPolicy,
    pub(super) max_message: usize,
    pub(super) tls: TlsSettings,
    pub(super) namespace: Option<Name>,
    pub(super) propagated: PropagatedHeaders,
    pub(super) has_control: bool,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) hooks: Hooks,
}

impl Settings {
    /// The limit of one attempt to connect to an address.
    pub(super) fn connect_timeout(&self, address: &BrokerAddress) -> Duration {
        let limit = self.connect_timeout.or(address.connect_timeout());
        limit.unwrap_or(CONNECT_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let address = BrokerAddress::parse("amqp://hare:secret@broker:5673/fields", None).unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            "amqp://broker:5673 ".repeat(2).trim()
        );
    }

    #[test]
    fn negotiated_limits_are_always_bounded() {
        let address = BrokerAddress::parse("amqp://localhost/", None).unwrap();
        let query = &address.0.query;
        assert_eq!(query.heartbeat, Some(HEARTBEAT));
        assert_eq!(query.frame_max, Some(DEFAULT_FRAME_MAX));
        assert_eq!(query.channel_max, Some(CHANNEL_MAX));
        let address = BrokerAddress::parse("amqp://localhost?heartbeat=7", Some(8)).unwrap();
        assert_eq!(
            address.0.query.heartbeat,
            Some(8),
            "the builder takes precedence"
        );
    }

    #[test]
    fn texts_of_the_broker_are_shown_without_names_of_the_uri() {
        let uri = "amqp://guest:s3cret@broker/no";
        let address = BrokerAddress::parse(uri, None).unwrap();
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
        /// Any password, at any place where it may be put by mistake.
        #[test]
        fn no_password_is_ever_shown(
            password in "[!-~]{6,20}|\\PC{6,20}",
            spelling in 0..SPELLINGS.len(),
        ) {
            // Ends with two characters that no error text contains.
            let password = format!("{password}q7");
            let uri = SPELLINGS[spelling].replace("{}", &password);
            let shown = match BrokerAddress::parse_all([&*uri].into_iter(), None) {
                Ok(addresses) => format!("{addresses:?}{}", addresses[0]),
                Err(error) => format!("{error}{error:?}"),
            };
            prop_assert!(!shown.contains(&password), "{}", shown);
            prop_assert!(!shown.contains("q7"), "{}", shown);
        }
    }
}
