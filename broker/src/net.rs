//! Sockets: one task a connection, one for time, one that accepts.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep_until, timeout},
};

use crate::{
    core::{Action, Command, Outcome},
    hub::{Hub, now},
    id::ConnectionId,
    link::{Cut, Link},
    session::{Event, Flow, Output, Session},
};

/// Read at most so much before the core is told.
const READ_CHUNK: usize = 128 * 1024;
/// Actions are turned into frames until so much waits to be written.
const WRITE_CHUNK: usize = 128 * 1024;
/// The core is told of deliveries written in steps of so many bytes. A fraction of its
/// window, so that a window that is full always opens again.
const FLUSH_STEP: usize = 128 * 1024;
/// How long a closed client may take to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// The core is ticked at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until told to stop, ticking the core.
pub(crate) async fn keep_time(hub: Arc<Hub>) {
    loop {
        match hub.tick() {
            Some(at) => {
                // Times to live reach further than tokio's timers, which take two years.
                let at = at.min(Instant::now() + LONGEST_SLEEP);
                tokio::select! {
                    () = sleep_until(at.into()) => {}
                    () = hub.timer.notified() => {}
                }
            }
            None => hub.timer.notified().await,
        }
    }
}

/// Serves one client until it is gone.
pub(crate) async fn serve(hub: Arc<Hub>, stream: TcpStream, address: String) {
    let id = hub.next_connection();
    let link = Arc::new(Link::default());
    {
        let mut state = hub.lock();
        if state.links.len() >= hub.config.limits.connections {
            tracing::warn!(%address, "connection limit reached: client turned away");
            return;
        }
        state.links.insert(id, link.clone());
    }
    // Dropped also when the task is: the core always hears of the end.
    let _registration = Registration {
        hub: hub.clone(),
        id,
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(connection = %id, %error, "cannot turn off Nagle's algorithm");
    }
    let mut connection = Connection {
        session: Session::new(id, hub.config.clone(), address, Instant::now()),
        hub,
        id,
        link,
        stream,
        input: Vec::new(),
        output: Vec::new(),
        written: 0,
        delivered: 0,
        flushed: 0,
        ending: false,
        reads: true,
    };
    match connection.run().await {
        Ok(()) => connection.hang_up().await,
        Err(End::Cut(Cut::Rst)) => {
            if let Err(error) = connection.stream.set_zero_linger() {
                tracing::debug!(connection = %id, %error, "cannot reset the socket");
            }
        }
        Err(End::Cut(Cut::Fin)) => {}
        Err(End::Io(error)) => tracing::debug!(connection = %id, %error, "connection lost"),
    }
}

struct Registration {
    hub: Arc<Hub>,
    id: ConnectionId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.lock().links.remove(&self.id);
        self.hub.apply([Command::Gone(self.id)]);
    }
}

enum End {
    Cut(Cut),
    Io(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Io(error)
    }
}

struct Connection {
    hub: Arc<Hub>,
    id: ConnectionId,
    link: Arc<Link>,
    stream: TcpStream,
    session: Session,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` the socket has taken.
    written: usize,
    /// Cost of the deliveries in `output`.
    delivered: usize,
    /// Cost of deliveries written that the core has not heard of.
    flushed: usize,
    /// Close when `output` is written.
    ending: bool,
    /// Whether the client was read from the last time round.
    reads: bool,
}

/// What the link and the faults on it allow.
#[derive(Clone, Copy)]
struct Leave {
    read: bool,
    write: bool,
    /// By a fault: then nobody is given up on.
    stalled: bool,
}

impl Connection {
    /// Returns when the conversation has ended in order.
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let leave = self.fill()?;
            if leave.write {
                self.flush()?;
                if self.output.is_empty() && !self.link.lock().actions.is_empty() {
                    // Others have their turn before the next chunk.
                    tokio::task::yield_now().await;
                    continue;
                }
                if self.ending && self.output.is_empty() {
                    return Ok(());
                }
            }
            if leave.read && !self.reads {
                self.session.forgive_silence(Instant::now());
            }
            self.reads = leave.read;
            let pending = !self.output.is_empty();
            let flow = Flow {
                reads: leave.read,
                output: if pending {
                    Output::Stuck
                } else {
                    Output::Empty
                },
            };
            let deadline = self.session.next_timeout(flow).filter(|_| !leave.stalled);
            tokio::select! {
                ready = self.stream.readable(), if leave.read && !self.ending => {
                    ready?;
                    self.read()?;
                }
                ready = self.stream.writable(), if leave.write && pending => ready?,
                () = self.link.wake.notified() => {}
                () = until(deadline) => {
                    let mut events = Vec::new();
                    self.session.timeout(Instant::now(), flow, &mut self.output, &mut events);
                    self.carry_out(events);
                }
            }
        }
    }

    /// Turns waiting actions into frames.
    fn fill(&mut self) -> Result<Leave, End> {
        let now = Instant::now();
        let mut acks = Acks::default();
        let mut state = self.link.lock();
        if let Some(cut) = state.cut {
            return Err(End::Cut(cut));
        }
        while self.output.len() < WRITE_CHUNK {
            let Some(action) = state.pop() else { break };
            if action.is_delivery() {
                self.delivered += action.cost();
            }
            if let Action::Confirm {
                channel,
                tag,
                outcome: Outcome::Ack,
            } = action
            {
                acks.add(channel, tag, &mut self.session, &mut self.output);
                continue;
            }
            // Deliveries may overtake a confirm; what belongs to publishing may not.
            if !action.is_delivery() {
                acks.write(&mut self.session, &mut self.output);
            }
            self.session.encode(now, action, &mut self.output);
        }
        acks.write(&mut self.session, &mut self.output);
        Ok(Leave {
            read: state.may_read(),
            write: !state.stall_writing,
            stalled: state.stall_reading || state.stall_writing,
        })
    }

    /// Writes what the socket takes.
    fn flush(&mut self) -> Result<(), End> {
        while let Some(rest) = self
            .output
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            // Under the lock, so that a stall has begun when the test hears that it has.
            let link = self.link.lock();
            if link.stall_writing {
                return Ok(());
            }
            let taken = self.stream.try_write(rest);
            drop(link);
            match taken {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => {
                    self.written += count;
                    self.session.note_sent(Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if self.written > 0 {
            self.output.clear();
            self.output.shrink_to(2 * WRITE_CHUNK);
            self.written = 0;
            self.flushed += std::mem::take(&mut self.delivered);
            if self.flushed >= FLUSH_STEP {
                let bytes = std::mem::take(&mut self.flushed);
                self.hub.apply([Command::Flushed(self.id, bytes)]);
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), End> {
        self.input.reserve(READ_CHUNK);
        let link = self.link.lock();
        if !link.may_read() {
            return Ok(());
        }
        let taken = self.stream.try_read_buf(&mut self.input);
        drop(link);
        match taken {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let mut events = Vec::new();
        let used = self
            .session
            .receive(Instant::now(), &self.input, &mut events);
        self.input.drain(..used.min(self.input.len()));
        self.carry_out(events);
        Ok(())
    }

    /// Does what the session wants, in its order, under one lock.
    fn carry_out(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut guard = self.hub.lock();
        let state = &mut *guard;
        let now = now();
        for event in events {
            match event {
                Event::Core(command) => state.handle(now, command),
                Event::Send(action) => self.link.push(action),
                Event::Raw(bytes) => self.output.extend_from_slice(bytes),
                Event::End => self.ending = true,
            }
        }
        self.hub.arm(state);
    }

    /// Says that nothing more comes and waits for the client to hang up: closing a socket
    /// that still holds its bytes would reset it and could cost it our last words.
    async fn hang_up(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut waste = vec![0; 4096];
        let drained = timeout(LINGER, async {
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut waste) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        })
        .await;
        if drained.is_err() {
            tracing::debug!(connection = %self.id, "client did not hang up");
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Confirms that can be one.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    open: Option<(u16, u64, u64)>,
}

impl Acks {
    pub(crate) fn add(&mut self, channel: u16, tag: u64, session: &mut Session, out: &mut Vec<u8>) {
        match &mut self.open {
            Some((open, _, last)) if *open == channel && *last + 1 == tag => *last = tag,
            _ => {
                self.write(session, out);
                self.open = Some((channel, tag, tag));
            }
        }
    }

    pub(crate) fn write(&mut self, session: &mut Session, out: &mut Vec<u8>) {
        if let Some((channel, first, last)) = self.open.take() {
            session.encode_acks(channel, first, last, out);
        }
    }
}
