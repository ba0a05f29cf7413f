//! Brokers of the simulation: the embedded one in this thread, and RabbitMQ over TCP.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lapin::uri::AMQPUri;
use lepus_broker::__sim::SimBroker;
use lepus_broker::ConnectionId;

/// The limit for one answer of RabbitMQ.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A fault that the broker is asked to cause.
#[derive(Clone, Debug)]
pub(super) enum BrokerFault {
    CloseChannel(u16),
    CancelConsumers(String),
    DeleteQueue(String),
    NackNext(u32),
    WithholdConfirms(bool),
}

/// The broker's own count of the connection's channels and unsettled deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) channels: usize,
    pub(super) unacked: usize,
}

/// A connection to a broker.
pub(super) trait BrokerConnection {
    /// User, password and virtual host.
    fn login(&self) -> [String; 3];
    fn send(&mut self, bytes: &[u8]);
    /// The bytes that the broker has sent; with `waits`, waits for some.
    fn receive(&mut self, waits: bool) -> Vec<u8>;
    /// Cuts the connection and opens another one.
    fn reconnect(&mut self);
    /// Causes a fault, if the broker supports it.
    fn fault(&mut self, fault: BrokerFault);
    fn audit(&self) -> Option<Audit>;
}

/// The embedded broker.
pub(super) struct EmbeddedBroker {
    pub(super) broker: SimBroker,
    id: ConnectionId,
}

impl EmbeddedBroker {
    pub(super) fn new(seed: u64) -> Self {
        let builder = lepus_broker::Broker::builder().seed(seed).max_message(8000);
        let mut broker = SimBroker::new(builder.max_frame(4096).heartbeat(Duration::ZERO));
        let id = broker.connect();
        Self { broker, id }
    }
}

impl BrokerConnection for EmbeddedBroker {
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

    fn fault(&mut self, fault: BrokerFault) {
        let (broker, id) = (&mut self.broker, self.id);
        match fault {
            BrokerFault::CloseChannel(number) => broker.close_channel(id, number),
            BrokerFault::CancelConsumers(queue) => broker.cancel_consumers(&queue),
            BrokerFault::DeleteQueue(queue) => broker.delete_queue(&queue),
            BrokerFault::NackNext(count) => broker.nack_next(id, count),
            BrokerFault::WithholdConfirms(withholds) => broker.withhold_confirms(id, withholds),
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
pub(super) struct RemoteBroker {
    uri: AMQPUri,
    stream: TcpStream,
}

impl RemoteBroker {
    pub(super) fn new(uri: &str) -> Self {
        let uri: AMQPUri = uri.parse().unwrap();
        let stream = connect(&uri);
        Self { uri, stream }
    }
}

fn connect(uri: &AMQPUri) -> TcpStream {
    let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    stream
}

impl BrokerConnection for RemoteBroker {
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

    fn fault(&mut self, _: BrokerFault) {}

    fn audit(&self) -> Option<Audit> {
        None
    }
}
