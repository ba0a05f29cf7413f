//! What a connection is made with. Credentials stay out of everything that can be printed.

use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;

use crate::error::Error;
use crate::name::Name;
use crate::retry::RetryPolicy;

/// Heartbeats every so many seconds; a dead peer is found after two intervals.
const HEARTBEAT: u16 = 10;
/// RabbitMQ's own default. Less would spare memory (lapin holds two buffers of 32 frames), but a
/// message's headers come in one frame, as large as their sender's connection allows: one that is
/// larger than agreed on here ends the connection, and comes again on the next.
const FRAME_MAX: u32 = 128 * 1024;

/// A broker's address.
#[derive(Clone)]
pub(super) struct Address(pub(super) AMQPUri);

impl Address {
    /// # Errors
    /// What is wrong with the URI, without repeating it: it holds a password.
    pub(super) fn parse(uri: &str, heartbeat: Option<u16>) -> Result<Self, Error> {
        let mut parsed = uri.trim().parse::<AMQPUri>().map_err(|reason| {
            Error::invalid(format!(
                "not an AMQP URI (amqp://user:password@host:port/vhost): {reason}"
            ))
        })?;
        // `amqp://host/` names the vhost "" by the letter of the URI specification; nobody who
        // writes it means that, and RabbitMQ has no such vhost.
        if parsed.vhost.is_empty() {
            parsed.vhost = "/".to_owned();
        }
        parsed.query.heartbeat = heartbeat.or(parsed.query.heartbeat).or(Some(HEARTBEAT));
        parsed.query.frame_max = parsed.query.frame_max.or(Some(FRAME_MAX));
        Ok(Self(parsed))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri {
            scheme,
            authority,
            vhost,
            ..
        } = &self.0;
        write!(f, "{scheme}://{}:{}", authority.host, authority.port)?;
        if vhost == "/" {
            Ok(())
        } else {
            write!(f, "/{vhost}")
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
    pub(super) connect_timeout: Duration,
    pub(super) backoff: RetryPolicy,
    pub(super) max_message: usize,
    pub(super) tls: TlsSettings,
    pub(super) namespace: Option<Name>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let address = Address::parse("amqp://hare:secret@broker:5673/fields", None).unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            "amqp://broker:5673/fields ".repeat(2).trim()
        );
        let error = Address::parse("http://hare:secret@broker", None).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn an_empty_path_is_the_default_virtual_host() {
        let address = Address::parse("amqp://localhost/", None).unwrap();
        assert_eq!(address.0.vhost, "/");
        assert_eq!(address.0.query.heartbeat, Some(HEARTBEAT));
    }
}
