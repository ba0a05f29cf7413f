//! A client as thin as can be: frames written from templates, read by their first octets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame},
    protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue},
    types::FieldTable,
};

const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];

pub(crate) struct Thin {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
}

/// A frame that came in and matters here.
enum Incoming {
    Delivery(u64),
    Confirm(u64),
    Other,
}

impl Thin {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream,
            input: Vec::new(),
            start: 0,
        };
        client.write(b"AMQP\0\0\x09\x01");
        client.next();
        client.method(
            0,
            AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
                client_properties: FieldTable::default(),
                mechanism: "PLAIN".into(),
                response: "\0guest\0guest".into(),
                locale: "en_US".into(),
            })),
        );
        client.next();
        let tune = connection::TuneOk {
            channel_max: 10,
            frame_max: 131_072,
            heartbeat: 0,
        };
        client.method(
            0,
            AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune)),
        );
        let open = connection::Open {
            virtual_host: "/".into(),
        };
        client.method(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
        client.next();
        client.method(
            1,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        );
        client.next();
        client
    }

    pub(crate) fn temporary_queue(&mut self) -> String {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("lepus-bench.{}.{number}", std::process::id());
        // Deleted with this connection: both brokers clean up alone.
        self.method(
            1,
            AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: name.as_str().into(),
                passive: false,
                durable: false,
                exclusive: true,
                auto_delete: false,
                nowait: false,
                arguments: FieldTable::default(),
            })),
        );
        self.next();
        name
    }

    pub(crate) fn confirm_select(&mut self) {
        let select = confirm::Select { nowait: false };
        self.method(1, AMQPClass::Confirm(confirm::AMQPMethod::Select(select)));
        self.next();
    }

    pub(crate) fn consume(&mut self, queue: &str, prefetch: u16) {
        let qos = basic::Qos {
            prefetch_count: prefetch,
            global: false,
        };
        self.method(1, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
        self.next();
        self.start_consuming(queue, false);
    }

    pub(crate) fn consume_without_ack(&mut self, queue: &str) {
        self.start_consuming(queue, true);
    }

    fn start_consuming(&mut self, queue: &str, no_ack: bool) {
        self.method(
            1,
            AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: queue.into(),
                consumer_tag: "c".into(),
                no_local: false,
                no_ack,
                exclusive: false,
                nowait: false,
                arguments: FieldTable::default(),
            })),
        );
        self.next();
    }

    pub(crate) fn publish_unconfirmed(&mut self, queue: &str, body: &[u8], count: usize) {
        let message = message(queue, body);
        let batch = message.repeat(50);
        for _ in 0..count / 50 {
            self.write(&batch);
        }
    }

    /// Publishes in confirm mode, never more than `behind` ahead of the confirms.
    pub(crate) fn publish_all(&mut self, queue: &str, body: &[u8], count: usize, behind: usize) {
        let batch = message(queue, body).repeat(behind / 2);
        let (mut sent, mut confirmed) = (0, 0);
        while confirmed < count {
            while sent < count && sent + behind / 2 <= confirmed + behind {
                self.write(&batch);
                sent += behind / 2;
            }
            if let Incoming::Confirm(tag) = self.next() {
                confirmed = usize::try_from(tag).unwrap();
            }
        }
    }

    /// Receives so many messages, acknowledging `batch` at a time.
    pub(crate) fn receive_and_ack(&mut self, count: usize, batch: usize) {
        let (mut received, mut last) = (0, 0);
        while received < count {
            if let Incoming::Delivery(tag) = self.next() {
                received += 1;
                last = tag;
                if received % batch == 0 {
                    self.ack(tag);
                }
            }
        }
        if received % batch != 0 {
            self.ack(last);
        }
    }

    /// Answers so many requests with a reply like them, then acknowledges.
    pub(crate) fn echo(&mut self, replies: &str, count: usize) {
        let reply = message(replies, &[7; 16]);
        let mut out = Vec::new();
        let (mut answered, mut last) = (0, 0);
        while answered < count {
            if let Incoming::Delivery(tag) = self.next() {
                answered += 1;
                last = tag;
                out.extend_from_slice(&reply);
            }
            // Everything that has come in is answered in one go.
            if last > 0 && !self.has_more() {
                out.extend_from_slice(&ack(last));
                self.write(&out);
                out.clear();
                last = 0;
            }
        }
        if last > 0 {
            out.extend_from_slice(&ack(last));
            self.write(&out);
        }
    }

    /// Sends so many requests, `window` in flight.
    pub(crate) fn call(&mut self, requests: &str, body: &[u8], count: usize, window: usize) {
        let request = message(requests, body);
        self.write(&request.repeat(window));
        let (mut sent, mut answered) = (window, 0);
        let mut out = Vec::new();
        while answered < count {
            if let Incoming::Delivery(_) = self.next() {
                answered += 1;
                if sent < count {
                    sent += 1;
                    out.extend_from_slice(&request);
                }
            }
            if !out.is_empty() && !self.has_more() {
                self.write(&out);
                out.clear();
            }
        }
    }

    fn ack(&mut self, tag: u64) {
        self.write(&ack(tag));
    }

    fn method(&mut self, channel: u16, class: AMQPClass) {
        self.write(&encode(&AMQPFrame::Method(channel, class)));
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Whether a whole frame waits already.
    fn has_more(&self) -> bool {
        self.size()
            .is_some_and(|size| self.input.len() - self.start >= size)
    }

    fn size(&self) -> Option<usize> {
        let head = self.input.get(self.start..)?.first_chunk::<7>()?;
        Some(u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 8)
    }

    /// Reads the next frame.
    fn next(&mut self) -> Incoming {
        while !self.has_more() {
            self.input.drain(..self.start);
            self.start = 0;
            let end = self.input.len();
            self.input.resize(end + 64 * 1024, 0);
            let count = self.stream.read(&mut self.input[end..]).unwrap();
            assert!(count > 0, "the broker closed the connection");
            self.input.truncate(end + count);
        }
        let size = self.size().unwrap();
        let frame = &self.input[self.start..self.start + size];
        self.start += size;
        let tag_at = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
        match frame {
            [1, _, _, _, _, _, _, ids @ ..] if ids.starts_with(&DELIVER) => {
                Incoming::Delivery(tag_at(12 + usize::from(ids[4])))
            }
            [1, _, _, _, _, _, _, ids @ ..] if ids.starts_with(&ACK) => {
                Incoming::Confirm(tag_at(11))
            }
            _ => Incoming::Other,
        }
    }
}

fn ack(tag: u64) -> Vec<u8> {
    let ack = basic::Ack {
        delivery_tag: tag,
        multiple: true,
    };
    encode(&AMQPFrame::Method(
        1,
        AMQPClass::Basic(basic::AMQPMethod::Ack(ack)),
    ))
}

fn message(key: &str, body: &[u8]) -> Vec<u8> {
    let publish = basic::Publish {
        exchange: "".into(),
        routing_key: key.into(),
        mandatory: false,
        immediate: false,
    };
    let properties = BasicProperties::default()
        .with_correlation_id("12345678".into())
        .with_reply_to("lepus-bench.replies".into())
        .with_content_type("application/msgpack".into());
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        properties,
    };
    let mut bytes = encode(&AMQPFrame::Method(
        1,
        AMQPClass::Basic(basic::AMQPMethod::Publish(publish)),
    ));
    bytes.extend(encode(&AMQPFrame::Header(1, header)));
    bytes.extend(encode(&AMQPFrame::Body(1, body.to_vec())));
    bytes
}

fn encode(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}
