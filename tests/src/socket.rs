//! A client that sends the very octets a test wants, right or wrong, and tells what comes back.

use crate::frames::{Frame, frames};
use amq_protocol::frame::WriteContext;
use amq_protocol::types::generation::gen_field_table;
use amq_protocol::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The payload sizes of a whole handshake are at most this: what both sides take before they
/// have agreed on more.
pub const FRAME_MIN: u32 = 4096;
/// The longest silence of a broker.
const PATIENCE: Duration = Duration::from_secs(20);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// A connection of frames.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    uri: AMQPUri,
}

/// The answer of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A method: its class and number, its fields.
    Method((u16, u16), Vec<u8>),
    /// A content header's properties.
    Header(Vec<u8>),
    Body(Vec<u8>),
    /// `channel.close`: code and text.
    ChannelClosed(u16, String),
    /// `connection.close`: code and text.
    ConnectionClosed(u16, String),
    /// The end of the stream, without a word.
    HungUp,
}

impl Answer {
    /// The reply code: 0 where nothing was refused.
    pub fn code(&self) -> u16 {
        match self {
            Answer::ChannelClosed(code, _) | Answer::ConnectionClosed(code, _) => *code,
            _ => 0,
        }
    }

    /// Whether the broker ended the connection, with a word or without.
    pub fn is_end(&self) -> bool {
        matches!(self, Answer::ConnectionClosed(..) | Answer::HungUp)
    }
}

impl Socket {
    /// A connection that has been greeted: the fields of `connection.start` are still to be read.
    pub async fn dial(uri: &str) -> Socket {
        Socket::try_dial(uri).await.expect("a connection")
    }

    /// The same, if somebody listens.
    ///
    /// # Errors
    /// No address, or nobody there.
    pub async fn try_dial(uri: &str) -> io::Result<Socket> {
        let uri: AMQPUri = uri.parse().map_err(io::Error::other)?;
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let stream = TcpStream::connect(address).await?;
        let mut socket = Socket {
            stream,
            buffer: Vec::new(),
            uri,
        };
        socket.write(b"AMQP\0\0\x09\x01").await;
        Ok(socket)
    }

    /// A connection with channel 1 open, on which nothing is larger than `frame_max`.
    pub async fn open(uri: &str, frame_max: u32) -> Socket {
        let mut socket = Socket::dial(uri).await;
        socket.answer().await;
        let start_ok = socket.start_ok(0);
        socket.send(0, (10, 11), &start_ok).await;
        socket.answer().await;
        let tune_ok = [
            &2047_u16.to_be_bytes()[..],
            &frame_max.to_be_bytes(),
            &[0; 2],
        ]
        .concat();
        socket.send(0, (10, 31), &tune_ok).await;
        let vhost = socket.uri.vhost.clone();
        let open = [short(vhost.as_bytes()), vec![0, 0]].concat();
        socket.send(0, (10, 40), &open).await;
        socket.expect((10, 41)).await;
        socket.send(1, (20, 10), &[0]).await;
        socket.expect((20, 11)).await;
        socket
    }

    /// The fields of a `connection.start-ok`, with so many octets of padding in the client's
    /// properties.
    pub fn start_ok(&self, padding: usize) -> Vec<u8> {
        let capable = [("authentication_failure_close", AMQPValue::Boolean(true))];
        let padding = AMQPValue::LongString("x".repeat(padding).into());
        let properties = table(&[
            ("capabilities", AMQPValue::FieldTable(fields(&capable))),
            ("padding", padding),
        ]);
        let user = &self.uri.authority.userinfo;
        let response = format!("\0{}\0{}", user.username, user.password);
        [
            properties,
            short(b"PLAIN"),
            long(response.as_bytes()),
            short(b"en_US"),
        ]
        .concat()
    }

    /// Writes octets; whether they were wanted is for the answer to tell.
    pub async fn write(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.ok();
    }

    pub async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let payload = payload.to_vec();
        let frame = Frame {
            kind,
            channel,
            payload,
        };
        self.write(&frame.encode()).await;
    }

    /// Sends a method.
    pub async fn send(&mut self, channel: u16, (class, method): (u16, u16), fields: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), fields].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    /// Sends a method on channel 1, and gives the answer.
    pub async fn ask(&mut self, method: (u16, u16), fields: &[u8]) -> Answer {
        self.send(1, method, fields).await;
        self.answer().await
    }

    /// Opens channel 1 again after the broker has closed it.
    pub async fn reopen(&mut self) {
        self.send(1, (20, 41), &[]).await;
        self.send(1, (20, 10), &[0]).await;
        self.expect((20, 11)).await;
    }

    /// `queue.declare`, with its bits as they stand in AMQP: passive 1, durable 2, exclusive 4,
    /// auto-delete 8.
    pub async fn declare(&mut self, queue: &[u8], bits: u8, arguments: &[u8]) -> Answer {
        let fields = [&[0, 0][..], &short(queue), &[bits], arguments].concat();
        self.ask((50, 10), &fields).await
    }

    /// `exchange.declare`: passive 1, durable 2, auto-delete 4, internal 8.
    pub async fn declare_exchange(
        &mut self,
        exchange: &[u8],
        kind: &str,
        bits: u8,
        arguments: &[u8],
    ) -> Answer {
        let kind = short(kind.as_bytes());
        let fields = [&[0, 0][..], &short(exchange), &kind, &[bits], arguments].concat();
        self.ask((40, 10), &fields).await
    }

    /// `queue.bind` without arguments.
    pub async fn bind(&mut self, queue: &[u8], exchange: &[u8], key: &[u8]) -> Answer {
        let names = [short(queue), short(exchange), short(key)].concat();
        self.ask((50, 20), &[&[0, 0][..], &names, &[0], &table(&[])].concat())
            .await
    }

    pub async fn delete(&mut self, queue: &[u8]) -> Answer {
        self.ask((50, 40), &[&[0, 0][..], &short(queue), &[0]].concat())
            .await
    }

    pub async fn delete_exchange(&mut self, exchange: &[u8]) -> Answer {
        self.ask((40, 20), &[&[0, 0][..], &short(exchange), &[0]].concat())
            .await
    }

    /// `confirm.select`.
    pub async fn confirm(&mut self) {
        self.send(1, (85, 10), &[0]).await;
        self.expect((85, 11)).await;
    }

    /// A message, `mandatory`, with a header frame of the test's own making.
    pub async fn publish(&mut self, exchange: &[u8], key: &[u8], header: &[u8], body: &[u8]) {
        let fields = [&[0, 0][..], &short(exchange), &short(key), &[1]].concat();
        self.send(1, (60, 40), &fields).await;
        self.frame(HEADER, 1, header).await;
        if !body.is_empty() {
            self.frame(BODY, 1, body).await;
        }
    }

    /// `basic.get`, which acknowledges what it gets if `no_ack`.
    pub async fn get(&mut self, queue: &[u8], no_ack: bool) -> Answer {
        let fields = [&[0, 0][..], &short(queue), &[no_ack.into()]].concat();
        self.ask((60, 70), &fields).await
    }

    /// The next thing but heartbeats.
    pub async fn answer(&mut self) -> Answer {
        let frame = loop {
            match self.next().await {
                None => return Answer::HungUp,
                Some(frame) if frame.kind == 8 => {}
                Some(frame) => break frame,
            }
        };
        match (frame.kind, frame.method()) {
            (METHOD, Some((10, 50))) => closed(&frame, Answer::ConnectionClosed),
            (METHOD, Some((20, 40))) => closed(&frame, Answer::ChannelClosed),
            (METHOD, Some(method)) => Answer::Method(method, frame.payload[4..].to_vec()),
            (HEADER, _) => Answer::Header(frame.payload[12..].to_vec()),
            (BODY, _) => Answer::Body(frame.payload),
            other => panic!("no frame of AMQP: {other:?}"),
        }
    }

    /// The fields of the next method, which is to be this one.
    pub async fn expect(&mut self, method: (u16, u16)) -> Vec<u8> {
        match self.answer().await {
            Answer::Method(found, fields) if found == method => fields,
            other => panic!("{method:?} was expected, and this came: {other:?}"),
        }
    }

    /// The next frame; none when the broker has hung up.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frames(&self.buffer).into_iter().next() {
                self.buffer.drain(..frame.encode().len());
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            match read.expect("the broker is silent") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// `close` begins with a code and a text, on channels and connections.
fn closed(frame: &Frame, make: fn(u16, String) -> Answer) -> Answer {
    let [_, _, _, _, c0, c1, length, rest @ ..] = &frame.payload[..] else {
        panic!("a close without a text: {frame:?}");
    };
    let text = String::from_utf8_lossy(&rest[..usize::from(*length)]);
    make(u16::from_be_bytes([*c0, *c1]), text.into_owned())
}

/// A short string.
pub fn short(octets: &[u8]) -> Vec<u8> {
    let length = u8::try_from(octets.len()).expect("a short string");
    [&[length], octets].concat()
}

/// Octets behind their number: a long string, a table.
pub fn long(octets: &[u8]) -> Vec<u8> {
    let length = u32::try_from(octets.len()).expect("a long string");
    [&length.to_be_bytes(), octets].concat()
}

/// A table of arguments.
pub fn table(entries: &[(&str, AMQPValue)]) -> Vec<u8> {
    let written = gen_field_table(&fields(entries))(WriteContext::from(Vec::new()));
    written.expect("a table").into_inner().0
}

fn fields(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut fields = FieldTable::default();
    for (name, value) in entries {
        fields.insert((*name).into(), value.clone());
    }
    fields
}

/// The payload of a content header: the class, the weight, the body's size, flags and values of
/// properties.
pub fn header(weight: u16, size: usize, properties: &[u8]) -> Vec<u8> {
    let size = u64::try_from(size).expect("a size");
    [
        &60_u16.to_be_bytes()[..],
        &weight.to_be_bytes(),
        &size.to_be_bytes(),
        properties,
    ]
    .concat()
}
