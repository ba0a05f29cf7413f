//! One attempt to reach a broker: bounded in time, leaving nothing behind, its failure named.

use std::io;

use lapin::tcp::OwnedTLSConfig;
use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, ConnectionProperties, ErrorKind};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;

use super::bare::Bare;
use super::inbox::Inbox;
use super::kit::Kit;
use super::outbox::Outbox;
use super::settings::{Address, Settings, TlsSettings};
use super::socket::Socket;
use crate::error::{ConnectFault, Error, Kind};

/// AMQP's reply code for a refused login.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's reply code for a virtual host that is not there, or not for this user.
const NOT_ALLOWED: u16 = 530;

/// lapin's connection, and the ways out of it and into it past lapin.
pub(super) struct Line {
    pub(super) connection: lapin::Connection,
    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
}

/// Connects to the first address that works, in turn.
///
/// # Errors
/// The last address's fault, with its cause.
pub(super) async fn dial(settings: &Settings, io: &Handle) -> Result<Line, Error> {
    let mut failure = Error::invalid("no address to connect to");
    for address in &settings.addresses {
        match dial_one(address, settings, io).await {
            Ok(line) => {
                tracing::debug!(%address, "connected");
                return Ok(line);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "no connection");
                failure = error.connecting_to(address);
            }
        }
    }
    Err(failure)
}

async fn dial_one(address: &Address, settings: &Settings, io: &Handle) -> Result<Line, Error> {
    let (outbox, inbox) = (Outbox::default(), Inbox::default());
    let (opened, heard) = (outbox.clone(), inbox.clone());
    let runtime = Kit::new(io.clone(), outbox.clone());
    let limit = settings.connect_timeout;
    // lapin has no handshake timeout and its thread outlives a dropped connect: both end with this,
    // however the attempt does, and before there is a socket at the limit.
    let lifeline = outbox.bell().lifeline();
    let tls = settings.tls.clone();
    let open = async move |uri: AMQPUri, _| {
        let target = (uri.authority.host.clone(), uri.authority.port);
        let connecting = TcpStream::connect(target);
        let stream = tokio::time::timeout(limit, connecting).await;
        let stream = stream.map_err(io::Error::from)??;
        stream.set_nodelay(true)?;
        let secure = |stream| secure(stream, &uri, &tls);
        let socket = Socket::open(stream.into_std()?, &opened, &heard, secure).await?;
        Ok(AsyncTcpStream::Plain(socket))
    };
    let name: LongString = settings.name.clone().into();
    let properties = ConnectionProperties::default()
        .with_connection_name(name)
        .with_client_property(short("product"), "lepus".into())
        .with_client_property(short("version"), env!("CARGO_PKG_VERSION").into());
    let uri = address.0.clone();
    let (host, port) = (uri.authority.host.clone(), uri.authority.port);
    let runtime = async_rs::Runtime::new(runtime);
    // On lapin's own runtime, where a caller that goes away does not cancel it half-way.
    let attempt = io.spawn(async move {
        tokio::time::timeout(limit, async move {
            if let Err(error) = lookup_host((host, port)).await {
                return Err(Error::new(Kind::Connect(ConnectFault::Address)).caused_by(error));
            }
            let connecting = lapin::Connection::connector(uri, runtime, open, properties);
            let connection = outbox.bell().ringing(connecting).await;
            let connection = connection.map_err(Error::from_dial)?;
            lifeline.release();
            Ok(Line {
                connection,
                outbox,
                inbox,
            })
        })
        .await
    });
    let result = match attempt.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::new(Kind::Connect(ConnectFault::Timeout(limit)))),
        Err(ended) => Err(Error::new(Kind::Closed).caused_by(ended)),
    };
    result.map_err(|error| name_tls_fault(error, address))
}

fn short(text: &'static str) -> lapin::types::ShortString {
    lapin::types::ShortString::try_new(text).unwrap_or_default()
}

#[cfg(feature = "tls")]
async fn secure(
    stream: AsyncTcpStream<Bare>,
    uri: &AMQPUri,
    tls: &TlsSettings,
) -> io::Result<AsyncTcpStream<Bare>> {
    use lapin::tcp::OwnedIdentity;
    use lapin::uri::AMQPScheme;

    match uri.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => {
            let identity = tls.identity.clone();
            let config = OwnedTLSConfig {
                cert_chain: tls.authorities.clone(),
                identity: identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
            };
            stream
                .into_tls(&uri.authority.host, config.as_ref())
                .await
                .map_err(io::Error::other)
        }
    }
}

#[cfg(not(feature = "tls"))]
async fn secure(
    stream: AsyncTcpStream<Bare>,
    uri: &AMQPUri,
    _: &TlsSettings,
) -> io::Result<AsyncTcpStream<Bare>> {
    use lapin::uri::AMQPScheme;

    let _ = OwnedTLSConfig::default();
    match uri.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => Err(io::Error::other(
            "this build has no TLS: enable feature `tls`",
        )),
    }
}

impl Error {
    fn from_dial(error: lapin::Error) -> Self {
        let fault = match error.kind() {
            ErrorKind::ProtocolError(amqp) => match amqp.get_id() {
                ACCESS_REFUSED => ConnectFault::Credentials,
                NOT_ALLOWED => ConnectFault::VirtualHost,
                _ => ConnectFault::Protocol,
            },
            ErrorKind::IOError(io) => match io.kind() {
                // rustls reports a bad certificate, and a peer that speaks no TLS, so.
                io::ErrorKind::InvalidData | io::ErrorKind::Other => ConnectFault::Tls,
                io::ErrorKind::ConnectionAborted | io::ErrorKind::UnexpectedEof => {
                    ConnectFault::Protocol
                }
                _ => ConnectFault::Refused,
            },
            _ => ConnectFault::Protocol,
        };
        Self::new(Kind::Connect(fault)).caused_by(error)
    }
}

/// Over a plain connection an unreadable answer is no TLS fault.
fn name_tls_fault(error: Error, address: &Address) -> Error {
    match error.kind() {
        Kind::Connect(ConnectFault::Tls) if !address.is_tls() => {
            Error::new(Kind::Connect(ConnectFault::Protocol)).caused_by(error)
        }
        _ => error,
    }
}
