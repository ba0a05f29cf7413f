//! A client that says exactly what a test wants, right or wrong.

use std::time::Duration;

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, BasicProperties, basic, channel, connection},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// The settings that a client asks for in its handshake.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) mechanism: &'static str,
    pub(crate) response: Vec<u8>,
    pub(crate) capabilities: &'static [&'static str],
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) vhost: &'static str,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            mechanism: "PLAIN",
            response: b"\0guest\0guest".to_vec(),
            capabilities: &[
                "authentication_failure_close",
                "connection.blocked",
                "consumer_cancel_notify",
            ],
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
            vhost: "/",
        }
    }
}

impl Raw {
    pub(crate) async fn dial(address: std::net::SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    /// A connection opened as wished, or the close that ended it.
    pub(crate) async fn open(
        address: std::net::SocketAddr,
        wish: &Wish,
    ) -> Result<Self, Option<connection::Close>> {
        let mut raw = Self::dial(address).await;
        raw.write(b"AMQP\0\0\x09\x01").await;
        raw.method().await?;
        let mut capabilities = FieldTable::default();
        for name in wish.capabilities {
            capabilities.insert((*name).into(), AMQPValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        raw.connection(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: properties,
            mechanism: wish.mechanism.into(),
            response: wish.response.clone().into(),
            locale: "en_US".into(),
        }))
        .await;
        raw.method().await?;
        raw.connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: wish.channel_max,
            frame_max: wish.frame_max,
            heartbeat: wish.heartbeat,
        }))
        .await;
        raw.connection(connection::AMQPMethod::Open(connection::Open {
            virtual_host: wish.vhost.into(),
        }))
        .await;
        raw.method().await?;
        Ok(raw)
    }

    /// A plain connection with channel 1 open.
    pub(crate) async fn ready(address: std::net::SocketAddr) -> Self {
        let mut raw = Self::open(address, &Wish::default()).await.unwrap();
        raw.send(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        )
        .await;
        raw.method().await.unwrap();
        raw
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The broker may have closed already, which the reading tells.
        self.stream.write_all(bytes).await.ok();
    }

    pub(crate) async fn send(&mut self, channel: u16, class: AMQPClass) {
        self.write(&encode(&AMQPFrame::Method(channel, class)))
            .await;
    }

    pub(crate) async fn basic(&mut self, method: basic::AMQPMethod) {
        self.send(1, AMQPClass::Basic(method)).await;
    }

    async fn connection(&mut self, method: connection::AMQPMethod) {
        self.send(0, AMQPClass::Connection(method)).await;
    }

    pub(crate) async fn publish(&mut self, key: &str, body: &[u8], mandatory: bool) {
        self.write(&publish_frames(key, body, mandatory)).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<AMQPFrame> {
        loop {
            if let Ok((rest, frame)) = parse_frame(self.buffer.as_slice()) {
                self.buffer = rest.to_vec();
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            match read.await.expect("the broker is silent") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next method, or how the connection ended: with a close or without a word.
    pub(crate) async fn method(&mut self) -> Result<AMQPClass, Option<connection::Close>> {
        loop {
            match self.frame().await {
                None => return Err(None),
                Some(AMQPFrame::Method(
                    _,
                    AMQPClass::Connection(connection::AMQPMethod::Close(close)),
                )) => {
                    return Err(Some(close));
                }
                Some(AMQPFrame::Method(_, method)) => return Ok(method),
                Some(_) => {}
            }
        }
    }

    /// The code with which the broker closes the connection.
    pub(crate) async fn closed_with(&mut self) -> u16 {
        loop {
            match self.method().await {
                Ok(_) => {}
                Err(close) => return close.expect("closed without a word").reply_code,
            }
        }
    }
}

pub(crate) fn encode(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}

/// A message to the default exchange on channel 1.
pub(crate) fn publish_frames(key: &str, body: &[u8], mandatory: bool) -> Vec<u8> {
    let publish = basic::Publish {
        exchange: "".into(),
        routing_key: key.into(),
        mandatory,
        immediate: false,
    };
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        properties: BasicProperties::default(),
    };
    let mut bytes = encode(&AMQPFrame::Method(
        1,
        AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
    ));
    bytes.extend(encode(&AMQPFrame::Header(1, header)));
    for chunk in body.chunks(100_000) {
        bytes.extend(encode(&AMQPFrame::Body(1, chunk.to_vec())));
    }
    bytes
}
