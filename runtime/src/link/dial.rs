//! One attempt to reach a broker: bounded in time, leaving nothing behind, its failure named.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, ConnectionProperties, ErrorKind};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::channel::Channels;
use super::kit::Kit;
use super::sasl::{Mask, Responses};
use super::settings::{Address, Settings, TlsSettings};
use super::socket::{Pipe, Socket, Transport, Tune, WriteMux};
use crate::error::{ConnectFault, Error, Kind};
use crate::sync::lock;

/// lapin uses no channel.
const LAPINS_CHANNEL_MAX: u16 = 1;
/// lapin sizes its buffers by this. What it reads and writes on channel 0 is small, but for a secret
/// that may be a token of some kilobytes.
const LAPINS_FRAME_MAX: u32 = 16 * 1024;

/// AMQP's reply code for a refused login.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's reply code for a virtual host that is not there, or not for this user.
const NOT_ALLOWED: u16 = 530;

/// A connection: channel 0 with lapin, the write buffer and all other channels.
pub(super) struct Line {
    pub(super) connection: lapin::Connection,
    pub(super) mux: WriteMux,
    pub(super) channels: Channels,
    /// How the I/O task ended.
    pub(super) ended: oneshot::Receiver<io::Error>,
    /// The interval that was asked for.
    pub(super) heartbeat: Duration,
}

/// Connects to the first address that works, in turn.
///
/// # Errors
/// The fault, with its cause; of several addresses each with its own.
pub(super) async fn dial(settings: &Settings, name: &str, io: &Handle) -> Result<Line, Error> {
    let mut failures = Vec::new();
    for address in &settings.addresses {
        match dial_one(address, settings, name, io).await {
            Ok(line) => {
                tracing::debug!(%address, "connected");
                return Ok(line);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "no connection");
                failures.push(error.connecting_to(address));
            }
        }
    }
    Err(Error::of_addresses(failures))
}

async fn dial_one(
    address: &Address,
    settings: &Settings,
    name: &str,
    io: &Handle,
) -> Result<Line, Error> {
    let limit = settings.connect_timeout(address);
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(name))
        .with_client_property(short("product"), "lepus".into())
        .with_client_property(short("version"), env!("CARGO_PKG_VERSION").into());
    let (address, tls, runtime) = (address.clone(), settings.tls.clone(), io.clone());
    // On the connection's own runtime, where a caller that goes away does not cancel it half-way.
    let attempt = io.spawn(tokio::time::timeout(limit, async move {
        let uri = &address.0;
        let transport = reach(uri, &tls).await?;
        let wanted = Tune {
            channel_max: uri.query.channel_max.unwrap_or_default(),
            frame_max: uri.query.frame_max.unwrap_or_default(),
            heartbeat: uri.query.heartbeat.unwrap_or_default(),
        };
        let mut lapins = uri.clone();
        let (responses, mask) = Responses::take(&mut lapins);
        let socket = Socket::start(transport, wanted, responses, &runtime);
        let opened = greet(
            lapins,
            socket,
            runtime,
            properties.with_auth_provider::<Mask>(mask),
        );
        opened
            .await
            .map_err(|error| Error::from_dial(error, &address))
    }));
    match attempt.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::new(Kind::Connect(ConnectFault::Timeout(limit)))),
        Err(ended) => Err(Error::new(Kind::Closed).caused_by(ended)),
    }
}

/// Connects, with TLS on it where the URI says so.
async fn reach(uri: &AMQPUri, tls: &TlsSettings) -> Result<Transport, Error> {
    let failed = |fault| move |error: io::Error| Error::new(Kind::Connect(fault)).caused_by(error);
    let target = (uri.authority.host.clone(), uri.authority.port);
    let addresses: Vec<_> = lookup_host(target)
        .await
        .map_err(failed(ConnectFault::Address))?
        .collect();
    let stream = TcpStream::connect(&*addresses)
        .await
        .map_err(failed(ConnectFault::Refused))?;
    stream
        .set_nodelay(true)
        .map_err(failed(ConnectFault::Refused))?;
    secure(stream, uri, tls)
        .await
        .map_err(failed(ConnectFault::Tls))
}

/// Has lapin open the connection over its pipe. If this ends in an error or is dropped, the socket
/// is closed, and lapin's thread ends with it.
async fn greet(
    mut uri: AMQPUri,
    socket: Socket,
    runtime: Handle,
    properties: ConnectionProperties,
) -> lapin::Result<Line> {
    let Socket {
        mux,
        channels,
        pipe,
        ended,
    } = socket;
    let heartbeat = uri.query.heartbeat.unwrap_or_default();
    uri.query.channel_max = Some(LAPINS_CHANNEL_MAX);
    uri.query.frame_max = Some(LAPINS_FRAME_MAX);
    let hang_up = HangUp(Some(mux.clone()));
    let pipe = Mutex::new(Some(pipe));
    let open =
        async move |_: AMQPUri, _: async_rs::Runtime<Kit>| -> lapin::Result<AsyncTcpStream<Pipe>> {
            // There is one, and lapin does not reconnect.
            let pipe = lock(&pipe).take();
            let pipe = pipe.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            Ok(AsyncTcpStream::Plain(pipe))
        };
    let runtime = async_rs::Runtime::new(Kit::new(runtime));
    let connecting = lapin::Connection::connector(uri, runtime, open, properties);
    let connection = connecting.await?;
    hang_up.release();
    Ok(Line {
        connection,
        mux,
        channels,
        ended,
        heartbeat: Duration::from_secs(heartbeat.into()),
    })
}

/// Closes the socket when it is dropped, unless it was released before: lapin has no limit for its
/// handshake, and its thread outlives a connect that is dropped.
struct HangUp(Option<WriteMux>);

impl HangUp {
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(mux) = &self.0 {
            mux.close();
        }
    }
}

fn short(text: &'static str) -> lapin::types::ShortString {
    lapin::types::ShortString::try_new(text).unwrap_or_default()
}

#[cfg(feature = "tls")]
async fn secure(stream: TcpStream, uri: &AMQPUri, tls: &TlsSettings) -> io::Result<Transport> {
    use lapin::uri::AMQPScheme;

    match uri.scheme {
        AMQPScheme::AMQP => Ok(Transport::plain(stream)),
        AMQPScheme::AMQPS => super::socket::secure(stream, &uri.authority.host, tls).await,
    }
}

#[cfg(not(feature = "tls"))]
async fn secure(stream: TcpStream, uri: &AMQPUri, _: &TlsSettings) -> io::Result<Transport> {
    use lapin::uri::AMQPScheme;

    match uri.scheme {
        AMQPScheme::AMQP => Ok(Transport::plain(stream)),
        AMQPScheme::AMQPS => Err(io::Error::other(
            "this build has no TLS: enable feature `tls`",
        )),
    }
}

impl Error {
    fn from_dial(error: lapin::Error, address: &Address) -> Self {
        let ErrorKind::ProtocolError(amqp) = error.kind() else {
            return Self::new(Kind::Connect(ConnectFault::Protocol)).caused_by(error);
        };
        let fault = match amqp.get_id() {
            ACCESS_REFUSED => ConnectFault::Credentials,
            NOT_ALLOWED => ConnectFault::VirtualHost,
            _ => ConnectFault::Protocol,
        };
        // The broker repeats the virtual host and the user that it refuses.
        let answer = Self::new(Kind::Broker {
            code: amqp.get_id(),
            text: address.redact(amqp.get_message().as_str()),
        });
        Self::new(Kind::Connect(fault)).caused_by(answer)
    }
}
