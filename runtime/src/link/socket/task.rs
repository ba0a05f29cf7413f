//! The I/O task: the only reader of a socket, and the writer of what nobody could write inline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::demux::Demux;
use super::mux::WriteMux;
use super::pipe::{Inward, Pipe};
use super::transport::Transport;
use super::tune::{self, Tune};
use crate::link::channel::Channels;
use crate::link::sasl::Responses;

/// How much is read at once.
const READ_BUFFER: usize = 128 * 1024;
/// At most so often lapin is given a heartbeat, while the broker speaks on other channels only.
const SYNTHETIC_HEARTBEAT: Duration = Duration::from_millis(200);
/// Once nothing can be written any more, how long the broker's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a look at the socket went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// Some of what there is, as much as the buffer holds.
    Full,
    All,
    /// There is nothing to read now.
    Nothing,
    /// The end of the stream.
    End,
}

/// A socket with the task that serves it.
#[derive(Debug)]
pub(in crate::link) struct Socket {
    pub(in crate::link) mux: WriteMux,
    pub(in crate::link) channels: Channels,
    pub(in crate::link) pipe: Pipe,
    /// How the task ended: with the end of the stream, or with an error.
    pub(in crate::link) ended: oneshot::Receiver<io::Error>,
}

impl Socket {
    /// Starts the task on a runtime.
    pub(in crate::link) fn start(
        transport: Transport,
        wanted: Tune,
        responses: Responses,
        io: &Handle,
    ) -> Self {
        let transport = Arc::new(transport);
        let mux = WriteMux::new(Arc::clone(&transport), wanted, responses);
        let channels = Channels::new(mux.clone());
        let inward = Arc::<Inward>::default();
        let (ending, ended) = oneshot::channel();
        let task = Task {
            transport,
            demux: Demux::new(mux.clone(), channels.clone(), Arc::clone(&inward)),
            end: End {
                mux: mux.clone(),
                inward: Arc::clone(&inward),
                ending: Some(ending),
            },
            gave_lapin: Instant::now(),
            buffer: vec![0; READ_BUFFER].into(),
        };
        io.spawn(task.run());
        Self {
            pipe: Pipe::new(mux.clone(), inward),
            mux,
            channels,
            ended,
        }
    }
}

struct Task {
    transport: Arc<Transport>,
    demux: Demux,
    end: End,
    gave_lapin: Instant,
    buffer: Box<[u8]>,
}

/// Tells everybody of the end, also when the runtime ends under the task.
struct End {
    mux: WriteMux,
    inward: Arc<Inward>,
    ending: Option<oneshot::Sender<io::Error>>,
}

impl End {
    fn with(&mut self, error: io::Error) {
        if let Some(ending) = self.ending.take() {
            // A connection that is being given up does not ask any more.
            let _ = ending.send(error);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.mux.close();
        self.inward.end();
        self.with(io::Error::other("the runtime of the connection has ended"));
    }
}

impl Task {
    async fn run(mut self) {
        let ended = match self.serve().await {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        self.end.with(ended);
    }

    /// Reads and writes until the stream ends, on either side.
    async fn serve(&mut self) -> io::Result<()> {
        let mux = self.end.mux.clone();
        let mut is_sent = true;
        let mut silence = Silence::default();
        loop {
            if mux.is_over() {
                return Ok(());
            }
            let mut has_more = false;
            tokio::select! {
                // In this order: a broker that always has something to say must not keep
                // heartbeats from it.
                biased;
                () = silence.next(&mux) => {}
                ready = self.transport.ready(!is_sent) => {
                    let ready = ready?;
                    if ready.is_readable() || ready.is_read_closed() {
                        match self.read()? {
                            Read::End => return Ok(()),
                            Read::Full => has_more = true,
                            Read::All | Read::Nothing => {}
                        }
                    }
                }
                () = mux.woken() => {}
            }
            is_sent = match mux.try_send() {
                Ok(is_sent) => is_sent,
                Err(error) => {
                    // The broker may have said why before it went.
                    let _ = tokio::time::timeout(LAST_WORDS, self.read_to_end()).await;
                    return Err(error);
                }
            };
            // With a broker that always has something to say, the others on this thread have their
            // turn as well: timers are among them.
            if has_more {
                tokio::task::yield_now().await;
            } else {
                tokio::task::coop::consume_budget().await;
            }
        }
    }

    /// Reads until the end of the stream, or until reading fails as well.
    async fn read_to_end(&mut self) {
        while self.transport.ready(false).await.is_ok() {
            match self.read() {
                Ok(Read::Full | Read::All | Read::Nothing) => {}
                Ok(Read::End) | Err(_) => return,
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Reads what there is.
    fn read(&mut self) -> io::Result<Read> {
        let read = match self.transport.try_read(&mut self.buffer) {
            Ok(0) => return Ok(Read::End),
            Ok(size) => {
                self.demux
                    .pass(self.buffer.get(..size).unwrap_or_default())?;
                if size < self.buffer.len() {
                    Read::All
                } else {
                    Read::Full
                }
            }
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Read::Nothing),
                    _ => Err(error),
                };
            }
        };
        let (to_lapin, to_others) = self.demux.take_spoken();
        if to_lapin {
            self.gave_lapin = Instant::now();
        } else if to_others && self.gave_lapin.elapsed() >= SYNTHETIC_HEARTBEAT {
            self.gave_lapin = Instant::now();
            let mut heartbeat = bytes::BytesMut::new();
            tune::heartbeat(&mut heartbeat);
            self.end.inward.give(&heartbeat)?;
        }
        Ok(read)
    }
}

/// Finds out when nothing was written for too long.
#[derive(Default)]
struct Silence {
    ticks: Option<tokio::time::Interval>,
    written: u64,
}

impl Silence {
    /// Completes when half a heartbeat interval has passed, after a heartbeat was written in case
    /// nothing else was meanwhile: the broker so hears something once an interval at least.
    async fn next(&mut self, mux: &WriteMux) {
        if self.ticks.is_none() {
            // Until the limits are agreed on, lapin speaks for itself.
            let Some(Tune { heartbeat: 1.., .. }) = mux.agreed() else {
                return std::future::pending().await;
            };
        }
        let ticks = self.ticks.get_or_insert_with(|| {
            let seconds = mux.agreed().map_or(1, |tune| tune.heartbeat.max(1));
            let mut ticks = tokio::time::interval(Duration::from_millis(500) * seconds.into());
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        ticks.tick().await;
        let written = mux.bytes_written();
        if written == self.written {
            mux.heartbeat();
        }
        self.written = mux.bytes_written();
    }
}

#[cfg(test)]
mod tests;
