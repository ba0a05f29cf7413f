//! One attempt to connect: TCP, TLS and lapin's handshake (`connection.start` to `connection.open-ok`).
//! It is bounded in time, and leaves no socket, task or thread if it fails. That holds as well when the
//! caller's future is dropped: the attempt then ends within its limit.

use std::io;
use std::sync::Mutex;

use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, ConnectionProperties};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lapin_runtime::LapinRuntime;
use super::sasl::{Mask, Responses};
use super::settings::{BrokerAddress, Settings, TlsSettings};
use super::socket::channels::Channels;
use super::socket::{Pipe, PipeEnd, Socket, Transport, Tune, WriteMux};
use crate::error::{ConnectFault, Error, ErrorKind};
use crate::sync::lock;
use crate::wire::reply_code;

/// The channel_max for lapin, which opens no channel.
const LAPINS_CHANNEL_MAX: u16 = 1;
/// The frame_max for lapin, by which it sizes its buffers. Frames on channel 0 are small, except for a
/// secret that is a token of some kilobytes.
const LAPINS_FRAME_MAX: u32 = 16 * 1024;

/// An open connection: lapin's part (channel 0), the write buffer and the table of the other channels.
pub(super) struct DialedConnection {
    pub(super) connection: lapin::Connection,
    pub(super) mux: WriteMux,
    pub(super) channels: Channels,
    pub(super) lapin_end: PipeEnd,
    /// The error that the I/O task ends with.
    pub(super) io_error: oneshot::Receiver<io::Error>,
}

/// Tries the addresses in turn and returns the first connection, with its host and port.
///
/// # Errors
/// The reason why no address could be connected to; with several addresses, the reason for each.
pub(super) async fn dial(
    settings: &Settings,
    name: &str,
    io: &Handle,
) -> Result<(DialedConnection, (String, u16)), Error> {
    let mut failures = Vec::new();
    for address in &settings.addresses {
        match dial_one(address, settings, name, io).await {
            Ok(dialed) => {
                tracing::debug!(%address, "connected");
                let authority = &address.0.authority;
                return Ok((dialed, (authority.host.clone(), authority.port)));
            }
            Err(error) => {
                tracing::debug!(%address, %error, "connecting failed");
                failures.push(error.connecting_to(address));
            }
        }
    }
    Err(Error::of_addresses(failures))
}

async fn dial_one(
    address: &BrokerAddress,
    settings: &Settings,
    name: &str,
    io: &Handle,
) -> Result<DialedConnection, Error> {
    let limit = settings.connect_timeout(address);
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(name))
        .with_client_property(short("product"), "lepus".into())
        .with_client_property(short("version"), env!("CARGO_PKG_VERSION").into());
    let (address, tls, runtime) = (address.clone(), settings.tls.clone(), io.clone());
    // Spawned on `io`, because a socket is served by the runtime on which it was connected.
    let attempt = io.spawn(tokio::time::timeout(limit, async move {
        let uri = &address.0;
        let transport = connect_transport(uri, &tls).await?;
        let wanted = Tune {
            channel_max: uri.query.channel_max.unwrap_or_default(),
            frame_max: uri.query.frame_max.unwrap_or_default(),
            heartbeat: uri.query.heartbeat.unwrap_or_default(),
        };
        let mut lapin_uri = uri.clone();
        let (responses, mask) = Responses::take(&mut lapin_uri);
        let socket = Socket::start(transport, wanted, responses, &runtime);
        let opened = open_connection(
            lapin_uri,
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
        Ok(Err(_)) => Err(Error::new(ErrorKind::Connect(ConnectFault::Timeout(limit)))),
        // The runtime `io` was shut down.
        Err(error) => Err(Error::new(ErrorKind::Closed).caused_by(error)),
    }
}

/// Connects the socket, with TLS if the URI asks for it.
async fn connect_transport(uri: &AMQPUri, tls: &TlsSettings) -> Result<Transport, Error> {
    let failed =
        |fault| move |error: io::Error| Error::new(ErrorKind::Connect(fault)).caused_by(error);
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

/// Lets lapin perform the AMQP handshake over its pipe. If this fails or is dropped, the socket is
/// closed, and lapin's thread ends.
async fn open_connection(
    mut uri: AMQPUri,
    socket: Socket,
    runtime: Handle,
    properties: ConnectionProperties,
) -> lapin::Result<DialedConnection> {
    let Socket {
        mux,
        channels,
        pipe,
        error: io_error,
    } = socket;
    uri.query.channel_max = Some(LAPINS_CHANNEL_MAX);
    uri.query.frame_max = Some(LAPINS_FRAME_MAX);
    let close_on_drop = CloseOnDrop(Some(mux.clone()));
    let lapin_end = pipe.end();
    let pipe = Mutex::new(Some(pipe));
    let open = async move |_: AMQPUri,
                           _: async_rs::Runtime<LapinRuntime>|
                -> lapin::Result<AsyncTcpStream<Pipe>> {
        // lapin connects once: its own recovery is off.
        let pipe = lock(&pipe).take();
        let pipe = pipe.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(AsyncTcpStream::Plain(pipe))
    };
    let runtime = async_rs::Runtime::new(LapinRuntime::new(runtime));
    let connecting = lapin::Connection::connector(uri, runtime, open, properties);
    let connection = connecting.await?;
    close_on_drop.release();
    Ok(DialedConnection {
        connection,
        mux,
        channels,
        lapin_end,
        io_error,
    })
}

/// Closes the socket when it is dropped, unless it was released. lapin's handshake has no timeout of its
/// own, and its thread goes on when the connecting future is dropped.
struct CloseOnDrop(Option<WriteMux>);

impl CloseOnDrop {
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
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
        AMQPScheme::AMQPS => Transport::secure(stream, &uri.authority.host, tls).await,
    }
}

#[cfg(not(feature = "tls"))]
async fn secure(stream: TcpStream, uri: &AMQPUri, _: &TlsSettings) -> io::Result<Transport> {
    use lapin::uri::AMQPScheme;

    match uri.scheme {
        AMQPScheme::AMQP => Ok(Transport::plain(stream)),
        AMQPScheme::AMQPS => Err(io::Error::other(
            "Lepus was built without TLS: enable its feature `tls`",
        )),
    }
}

impl Error {
    fn from_dial(error: lapin::Error, address: &BrokerAddress) -> Self {
        let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else {
            return Self::new(ErrorKind::Connect(ConnectFault::Protocol)).caused_by(error);
        };
        let fault = match amqp.get_id() {
            reply_code::ACCESS_REFUSED => ConnectFault::Credentials,
            reply_code::NOT_ALLOWED => ConnectFault::VirtualHost,
            _ => ConnectFault::Protocol,
        };
        // The broker's text names the virtual host and the user that it refuses.
        let reason = Self::new(ErrorKind::Broker {
            code: amqp.get_id(),
            text: address.redact(amqp.get_message().as_str()),
        });
        Self::new(ErrorKind::Connect(fault)).caused_by(reason)
    }
}
