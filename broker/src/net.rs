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
    id::ConnectionId,
    outgoing::{Cut, Outgoing},
    session::{Event, Flow, Output, Session},
    shared::{Shared, now},
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
pub(crate) async fn run_timer(shared: Arc<Shared>) {
    loop {
        match shared.tick() {
            Some(at) => {
                // Times to live reach further than tokio's timers, which take two years.
                let at = at.min(Instant::now() + LONGEST_SLEEP);
                tokio::select! {
                    () = sleep_until(at.into()) => {}
                    () = shared.timer.notified() => {}
                }
            }
            None => shared.timer.notified().await,
        }
    }
}

/// Serves one client until it is gone.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, address: String) {
    let id = shared.next_connection();
    let outgoing = Arc::new(Outgoing::default());
    {
        let mut state = shared.lock();
        if state.outgoing.len() >= shared.config.limits.connections {
            tracing::warn!(%address, "connection limit reached: client turned away");
            return;
        }
        state.outgoing.insert(id, outgoing.clone());
    }
    // Dropped also when the task is: the core always hears of the end.
    let _registration = Registration {
        shared: shared.clone(),
        id,
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(connection = %id, %error, "cannot turn off Nagle's algorithm");
    }
    let mut connection = Connection {
        session: Session::new(id, shared.config.clone(), address, Instant::now()),
        shared,
        id,
        outgoing,
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
        Ok(()) => connection.linger().await,
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
    shared: Arc<Shared>,
    id: ConnectionId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.lock().outgoing.remove(&self.id);
        self.shared.apply([Command::Disconnected(self.id)]);
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
    shared: Arc<Shared>,
    id: ConnectionId,
    outgoing: Arc<Outgoing>,
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

/// What the outgoing and the faults on it allow.
#[derive(Clone, Copy)]
struct Permissions {
    read: bool,
    write: bool,
    /// By a fault: then nobody is given up on.
    stalled: bool,
}

impl Connection {
    /// Returns when the conversation has ended in order.
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let permissions = self.fill()?;
            if permissions.write {
                self.flush()?;
                if self.output.is_empty() && !self.outgoing.lock().actions.is_empty() {
                    // Others have their turn before the next chunk.
                    tokio::task::yield_now().await;
                    continue;
                }
                if self.ending && self.output.is_empty() {
                    return Ok(());
                }
            }
            if permissions.read && !self.reads {
                self.session.restart_receive_timeout(Instant::now());
            }
            self.reads = permissions.read;
            let pending = !self.output.is_empty();
            let flow = Flow {
                reads: permissions.read,
                output: if pending {
                    Output::Pending
                } else {
                    Output::Empty
                },
            };
            let deadline = self
                .session
                .next_timeout(flow)
                .filter(|_| !permissions.stalled);
            tokio::select! {
                ready = self.stream.readable(), if permissions.read && !self.ending => {
                    ready?;
                    self.read()?;
                }
                ready = self.stream.writable(), if permissions.write && pending => ready?,
                () = self.outgoing.wake.notified() => {}
                () = until(deadline) => {
                    let mut events = Vec::new();
                    self.session.timeout(Instant::now(), flow, &mut self.output, &mut events);
                    self.apply_settlement(events);
                }
            }
        }
    }

    /// Turns waiting actions into frames.
    fn fill(&mut self) -> Result<Permissions, End> {
        let now = Instant::now();
        let mut acks = AckBatch::default();
        let mut state = self.outgoing.lock();
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
        Ok(Permissions {
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
            let outgoing = self.outgoing.lock();
            if outgoing.stall_writing {
                return Ok(());
            }
            let taken = self.stream.try_write(rest);
            drop(outgoing);
            match taken {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => {
                    self.written += count;
                    self.session.restart_send_timeout(Instant::now());
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
                self.shared.apply([Command::Flushed(self.id, bytes)]);
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), End> {
        self.input.reserve(READ_CHUNK);
        let outgoing = self.outgoing.lock();
        if !outgoing.may_read() {
            return Ok(());
        }
        let taken = self.stream.try_read_buf(&mut self.input);
        drop(outgoing);
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
        self.apply_settlement(events);
        Ok(())
    }

    /// Does what the session wants, in its order, under one lock.
    fn apply_settlement(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let now = now();
        for event in events {
            match event {
                Event::Core(command) => state.handle(now, command),
                Event::Send(action) => self.outgoing.push(action),
                Event::Raw(bytes) => self.output.extend_from_slice(bytes),
                Event::End => self.ending = true,
            }
        }
        self.shared.arm(state);
    }

    /// Says that nothing more comes and waits for the client to hang up: closing a socket
    /// that still holds its bytes would reset it and could cost it our last words.
    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut discarded = vec![0; 4096];
        let drained = timeout(LINGER, async {
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut discarded) {
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
pub(crate) struct AckBatch {
    open: Option<(u16, u64, u64)>,
}

impl AckBatch {
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
