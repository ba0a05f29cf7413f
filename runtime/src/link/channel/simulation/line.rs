//! The two brokers of the simulation: the embedded one in this thread, RabbitMQ over TCP.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lapin::uri::AMQPUri;
use lepus_broker::__sim::SimBroker;
use lepus_broker::ConnectionId;

/// How long RabbitMQ may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong on the broker's side.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    CloseChannel(u16),
    CancelConsumers(String),
    DeleteQueue(String),
    NackNext(u32),
    WithholdConfirms(bool),
}

/// What the broker knows of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) channels: usize,
    pub(super) unacked: usize,
}

/// A connection to a broker.
pub(super) trait Line {
    /// User, password and virtual host.
    fn login(&self) -> [String; 3];
    fn send(&mut self, bytes: &[u8]);
    /// What the broker has said; waits for something if that is asked for.
    fn receive(&mut self, waits: bool) -> Vec<u8>;
    /// Cuts the connection and makes another one.
    fn reconnect(&mut self);
    /// Does what it can.
    fn fault(&mut self, fault: Fault);
    fn audit(&self) -> Option<Audit>;
}

/// The embedded broker.
pub(super) struct Embedded {
    pub(super) broker: SimBroker,
    id: ConnectionId,
}

impl Embedded {
    pub(super) fn new(seed: u64) -> Self {
        let builder = lepus_broker::Broker::builder().seed(seed).max_message(8000);
        let mut broker = SimBroker::new(builder.max_frame(4096).heartbeat(Duration::ZERO));
        let id = broker.connect();
        Self { broker, id }
    }
}

impl Line for Embedded {
    fn login(&self) -> [String; 3] {
        ["guest", "guest", "/"].map(str::to_owned)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.broker.receive(self.id, bytes);
    }

    fn receive(&mut self, _: bool) -> Vec<u8> {
        self.broker.output(self.id)
    }

    fn reconnect(&mut self) {
        self.broker.cut(self.id);
        self.id = self.broker.connect();
    }

    fn fault(&mut self, fault: Fault) {
        let (broker, id) = (&mut self.broker, self.id);
        match fault {
            Fault::CloseChannel(number) => broker.close_channel(id, number),
            Fault::CancelConsumers(queue) => broker.cancel_consumers(&queue),
            Fault::DeleteQueue(queue) => broker.delete_queue(&queue),
            Fault::NackNext(count) => broker.nack_next(id, count),
            Fault::WithholdConfirms(withholds) => broker.withhold_confirms(id, withholds),
        }
    }

    fn audit(&self) -> Option<Audit> {
        let connections = self.broker.connections();
        let own = connections.iter().find(|info| info.id == self.id)?;
        Some(Audit {
            channels: own.channels,
            unacked: own.unacked,
        })
    }
}

/// A broker behind a socket.
pub(super) struct Remote {
    uri: AMQPUri,
    stream: TcpStream,
}

impl Remote {
    pub(super) fn new(uri: &str) -> Self {
        let uri: AMQPUri = uri.parse().unwrap();
        let stream = connect(&uri);
        Self { uri, stream }
    }
}

fn connect(uri: &AMQPUri) -> TcpStream {
    let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Line for Remote {
    fn login(&self) -> [String; 3] {
        let user = &self.uri.authority.userinfo;
        [&user.username, &user.password, &self.uri.vhost].map(Clone::clone)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.write_all(bytes).unwrap();
    }

    fn receive(&mut self, waits: bool) -> Vec<u8> {
        self.stream.set_nonblocking(!waits).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the broker has ended the connection"),
            Ok(size) => buffer.truncate(size),
            Err(error) => {
                let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                assert!(kinds.contains(&error.kind()), "{error}");
                buffer.clear();
            }
        }
        buffer
    }

    fn reconnect(&mut self) {
        self.stream = connect(&self.uri);
    }

    fn fault(&mut self, _: Fault) {}

    fn audit(&self) -> Option<Audit> {
        None
    }
}
