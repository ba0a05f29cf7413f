//! A TCP proxy in this process, between a client and a broker: it forwards, and
//! it fails in every way a network fails.

mod link;
mod trap;

use crate::frames::{Frame, frames};
use lapin::uri::AMQPUri;
use link::Link;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
pub use trap::Trap;
use uuid::Uuid;

/// A proxy in front of one broker. Dropping it cuts what runs through it.
#[derive(Debug)]
pub struct Proxy {
    uri: String,
    shared: Arc<Shared>,
    settled: watch::Receiver<Mode>,
    acceptor: JoinHandle<()>,
}

/// The treatment of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Nobody listens: connection refused.
    Refuse,
    /// It is accepted and closed at once.
    AcceptThenClose,
    /// It is accepted, and not one byte ever comes.
    AcceptSilent,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
}

/// The way in which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In order, as a process that ends.
    Fin,
    /// Reset, as a machine that is gone and back.
    Rst,
}

/// A slow network: every `piece` bytes take `delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    pub delay: Duration,
    pub piece: usize,
}

impl Slow {
    /// A delay for each packet, as over a long line.
    pub fn latency(delay: Duration) -> Self {
        Slow {
            delay,
            piece: usize::MAX,
        }
    }
}

impl Proxy {
    /// A proxy on a free port of the loopback, in front of the broker at `uri`.
    pub async fn start(uri: &str) -> Proxy {
        let upstream: AMQPUri = uri.parse().expect("an AMQP URI");
        let listener = listen_anywhere();
        let address = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared {
            upstream: (upstream.authority.host, upstream.authority.port),
            control: watch::Sender::new(Control::default()),
            state: Mutex::default(),
        });
        let (settle, settled) = watch::channel(Mode::Forward);
        let acceptor = tokio::spawn(accept(Arc::clone(&shared), listener, address, settle));
        Proxy {
            uri: reroute(uri, address),
            shared,
            settled,
            acceptor,
        }
    }

    /// The broker's URI by way of this proxy.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Sets the treatment of connections from now on; those there are stay as they are.
    pub async fn set(&self, mode: Mode) {
        self.shared
            .control
            .send_modify(|control| control.mode = mode);
        let mut settled = self.settled.clone();
        settled
            .wait_for(|&now| now == mode)
            .await
            .expect("the proxy accepts");
    }

    /// As a broker that has gone: cut, and refused from then on.
    pub async fn down(&self) {
        self.set(Mode::Refuse).await;
        self.cut(Cut::Rst);
    }

    /// The broker is back.
    pub async fn up(&self) {
        self.set(Mode::Forward).await;
    }

    /// Cuts every connection there is; says how many.
    pub fn cut(&self, how: Cut) -> usize {
        let state = self.shared.state();
        state.links.values().filter(|link| link.cut(how)).count()
    }

    /// Nothing passes in this direction any more, and nobody is told: what was
    /// sent waits here and in the kernel's buffers.
    pub fn stall(&self, way: Way) {
        self.shared
            .control
            .send_modify(|control| *control.stalled(way) = true);
    }

    /// Nothing passes at all: a half-open connection.
    pub fn stall_both(&self) {
        self.stall(Way::Up);
        self.stall(Way::Down);
    }

    /// Everything that waited passes.
    pub fn resume(&self) {
        self.shared.control.send_modify(|control| {
            control.up = false;
            control.down = false;
        });
    }

    /// From now on each direction is slow; `None` makes it fast again.
    pub fn slow(&self, slow: Option<Slow>) {
        self.shared
            .control
            .send_modify(|control| control.slow = slow);
    }

    /// Stalls `way` right after `needle` has passed in it, to the byte: what
    /// follows waits until [`Proxy::resume`].
    pub fn stall_after(&self, way: Way, needle: &[u8]) -> Trap {
        assert!(!needle.is_empty(), "a trap for nothing");
        let (spring, trap) = trap::set(way, needle);
        self.shared.state().traps.push(spring);
        trap
    }

    /// From now on a text on its way to the broker turns into bytes that are none:
    /// what no client writes and AMQP lets through.
    pub fn garble(&self, text: &str) {
        self.shared.state().garbled = text.as_bytes().to_vec();
    }

    /// Slips bytes in towards every client, between two frames.
    pub fn inject(&self, bytes: &[u8]) {
        for link in self.shared.state().links.values() {
            link.inject(bytes);
        }
    }

    /// Records everything that passes from now on.
    pub fn tap(&self) -> Tap {
        let record = Arc::default();
        self.shared.state().taps.push(Arc::clone(&record));
        Tap { record }
    }

    /// Connections there are now.
    pub fn open(&self) -> usize {
        self.shared.state().links.len()
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// A record of what passed: whole bytes, each connection by itself.
#[derive(Debug)]
pub struct Tap {
    record: Arc<Mutex<Vec<Chunk>>>,
}

/// Bytes that passed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The proxy's first connection is 1.
    pub link: u64,
    pub way: Way,
    pub bytes: Vec<u8>,
}

impl Tap {
    /// All that passed, in order.
    pub fn chunks(&self) -> Vec<Chunk> {
        lock(&self.record).clone()
    }

    /// The numbers of bytes that passed together in one direction, each time.
    pub fn sizes(&self, way: Way) -> Vec<usize> {
        let record = lock(&self.record);
        let mine = record.iter().filter(|chunk| chunk.way == way);
        mine.map(|chunk| chunk.bytes.len()).collect()
    }

    /// The bytes of one direction of one connection.
    pub fn bytes(&self, link: u64, way: Way) -> Vec<u8> {
        let record = lock(&self.record);
        let mine = record
            .iter()
            .filter(|chunk| chunk.link == link && chunk.way == way);
        mine.flat_map(|chunk| chunk.bytes.iter().copied()).collect()
    }

    /// The same as AMQP frames; the tap must have been there from the beginning.
    pub fn frames(&self, link: u64, way: Way) -> Vec<Frame> {
        frames(&self.bytes(link, way))
    }
}

#[derive(Debug)]
struct Shared {
    upstream: (String, u16),
    control: watch::Sender<Control>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accepted: u64,
    links: HashMap<u64, Link>,
    taps: Vec<Arc<Mutex<Vec<Chunk>>>>,
    traps: Vec<trap::Spring>,
    garbled: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Control {
    mode: Mode,
    up: bool,
    down: bool,
    slow: Option<Slow>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            mode: Mode::Forward,
            up: false,
            down: false,
            slow: None,
        }
    }
}

impl Control {
    fn stalled(&mut self, way: Way) -> &mut bool {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    fn is_stalled(mut self, way: Way) -> bool {
        *self.stalled(way)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under a lock")
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    settle: watch::Sender<Mode>,
) {
    let mut control = shared.control.subscribe();
    let mut listener = Some(listener);
    let mut links = JoinSet::new();
    loop {
        let mode = control.borrow_and_update().mode;
        if mode == Mode::Refuse {
            // Bound and not listening: refused, and the port stays ours.
            drop(listener.take());
            let socket = bind(address);
            settle.send_replace(mode);
            if control
                .wait_for(|control| control.mode != Mode::Refuse)
                .await
                .is_err()
            {
                return;
            }
            listener = Some(socket.listen(1024).expect("the port is ours"));
            continue;
        }
        settle.send_replace(mode);
        let listening = listener.get_or_insert_with(|| listen(address));
        tokio::select! {
            accepted = listening.accept() => {
                let (client, _) = accepted.expect("a listener accepts");
                let (cut, cuts) = watch::channel(None);
                let (injector, injections) = mpsc::unbounded_channel();
                let id = {
                    let mut state = shared.state();
                    state.accepted += 1;
                    let id = state.accepted;
                    state.links.insert(id, Link::new(cut, injector));
                    id
                };
                let shared = Arc::clone(&shared);
                links.spawn(async move {
                    link::serve(&shared, id, mode, client, cuts, injections).await;
                    shared.state().links.remove(&id);
                });
            }
            _ = control.changed() => {}
            Some(ended) = links.join_next() => ended.expect("a link does not panic"),
        }
    }
}

/// Listens on a free port below the range from which the kernel takes ports for outgoing connections,
/// and below those of the tests' RabbitMQ nodes: a proxy lets go of its port and takes it again.
fn listen_anywhere() -> TcpListener {
    const PORTS: std::ops::Range<u32> = 10_000..20_000;
    let mut tries = PORTS
        .cycle()
        .skip(Uuid::new_v4().as_u128() as usize % PORTS.len());
    let mut listening = || {
        let port = u16::try_from(tries.next()?).ok()?;
        let socket = try_bind(SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
        socket.listen(1024).ok()
    };
    (0..PORTS.len())
        .find_map(|_| listening())
        .expect("a free port")
}

fn listen(address: SocketAddr) -> TcpListener {
    bind(address).listen(1024).expect("a free port")
}

fn bind(address: SocketAddr) -> TcpSocket {
    try_bind(address).unwrap_or_else(|error| panic!("bind {address}: {error}"))
}

fn try_bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// `uri` with another address; user, vhost and query stay.
fn reroute(uri: &str, address: SocketAddr) -> String {
    let (scheme, rest) = uri.split_once("://").expect("a URI has a scheme");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let user = authority.rfind('@').map_or("", |at| &authority[..=at]);
    format!("{scheme}://{user}{address}{path}")
}

#[cfg(test)]
mod tests;
