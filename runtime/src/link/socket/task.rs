//! I/O task of a connection: the only reader of its socket, and the writer of the bytes that the
//! appending threads could not write themselves.
//!
//! The task ends when the stream ends, when reading or writing fails, or when [`WriteMux::close`] was
//! called. Dropping its [`EndGuard`] then closes the write buffer and lapin's stream, whichever way the
//! task ended, also when its runtime is shut down under it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::demux::Demux;
use super::mux::WriteMux;
use super::pipe::{InboundBuffer, Pipe, PipeEnd};
use super::transport::{Transport, TransportReader, TransportWriter};
use super::tune::{self, Tune};
use crate::link::sasl::Responses;
use crate::link::socket::channels::Channels;

/// The number of bytes read at once.
const READ_BUFFER: usize = 128 * 1024;
/// The shortest time between two heartbeats that are passed to lapin in place of frames on other
/// channels.
const SYNTHETIC_HEARTBEAT: Duration = Duration::from_millis(200);
/// After a failed write, how long to wait for the frame in which the broker may give its reason
/// (`connection.close`).
const CLOSE_REASON_TIMEOUT: Duration = Duration::from_millis(100);

/// After `connection.close-ok`, how long lapin may take to end.
const LAPIN_END_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection's socket, with its I/O task running.
#[derive(Debug)]
pub(in crate::link) struct Socket {
    pub(in crate::link) mux: WriteMux,
    pub(in crate::link) channels: Channels,
    pub(in crate::link) pipe: Pipe,
    /// The error that the task ended with; at the end of the stream `UnexpectedEof`.
    pub(in crate::link) error: oneshot::Receiver<io::Error>,
}

impl Socket {
    /// Starts the task on the runtime `io`.
    pub(in crate::link) fn start(
        transport: Transport,
        wanted: Tune,
        responses: Responses,
        io: &Handle,
    ) -> Self {
        let (reader, writer) = transport.split();
        let writer = Arc::new(writer);
        let mux = WriteMux::new(Arc::clone(&writer), wanted, responses);
        let channels = Channels::new(mux.clone());
        let inbound = Arc::<InboundBuffer>::default();
        let (sender, error) = oneshot::channel();
        let pipe = Pipe::new(mux.clone(), Arc::clone(&inbound));
        let task = IoTask {
            reader,
            writer,
            demux: Demux::new(mux.clone(), channels.clone(), Arc::clone(&inbound)),
            end: EndGuard {
                mux: mux.clone(),
                inbound,
                error: Some(sender),
            },
            lapin_end: pipe.end(),
            last_lapin_frame: Instant::now(),
            buffer: vec![0; READ_BUFFER].into(),
        };
        io.spawn(task.run());
        Self {
            pipe,
            mux,
            channels,
            error,
        }
    }
}

struct IoTask {
    reader: TransportReader,
    writer: Arc<TransportWriter>,
    demux: Demux,
    end: EndGuard,
    lapin_end: PipeEnd,
    /// When lapin was last passed a frame.
    last_lapin_frame: Instant,
    buffer: Box<[u8]>,
}

/// Closes everything that depends on the task when it is dropped.
struct EndGuard {
    mux: WriteMux,
    inbound: Arc<InboundBuffer>,
    error: Option<oneshot::Sender<io::Error>>,
}

impl EndGuard {
    /// Reports the error that the task ended with. Only the first one is reported.
    fn report(&mut self, error: io::Error) {
        if let Some(sender) = self.error.take() {
            // Fails if the session was dropped, when the error is of no interest.
            let _ = sender.send(error);
        }
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.mux.close();
        self.inbound.close();
        self.report(io::Error::other("the connection's runtime was shut down"));
    }
}

impl IoTask {
    async fn run(mut self) {
        let error = match self.serve().await {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        self.end.report(error);
        // After `connection.close-ok`, lapin ends by itself. If its stream ended before that, it would log the
        // orderly end as errors.
        if self.end.inbound.has_close_ok() {
            self.end.mux.close();
            let _ = tokio::time::timeout(LAPIN_END_TIMEOUT, self.lapin_end.wait()).await;
        }
    }

    /// Reads and writes until the stream ends or the connection is closed.
    async fn serve(&mut self) -> io::Result<()> {
        let mux = self.end.mux.clone();
        let mut is_drained = true;
        let mut timer = HeartbeatTimer::default();
        loop {
            if mux.is_closed() {
                return Ok(());
            }
            let mut is_filled = false;
            tokio::select! {
                // The timer comes first: under a constant flow of incoming frames, heartbeats still
                // have to be written in time.
                biased;
                () = timer.next(&mux) => {}
                read = self.reader.read(&mut self.buffer) => match read? {
                    0 => return Ok(()),
                    size => {
                        is_filled = size == self.buffer.len();
                        self.receive(size)?;
                    }
                },
                writable = self.writer.writable(), if !is_drained => writable?,
                () = mux.woken() => {}
            }
            is_drained = match mux.try_flush() {
                Ok(is_drained) => is_drained,
                Err(error) => {
                    // The broker may have sent `connection.close` before it closed the socket. lapin
                    // reads the reason from it.
                    let _ = tokio::time::timeout(CLOSE_REASON_TIMEOUT, self.read_to_end()).await;
                    return Err(error);
                }
            };
            // Under a constant flow of incoming frames the loop would never suspend. Other tasks and
            // the timers of this thread have to run, too.
            if is_filled {
                tokio::task::yield_now().await;
            } else {
                tokio::task::coop::consume_budget().await;
            }
        }
    }

    /// Reads until the end of the stream or until reading fails.
    async fn read_to_end(&mut self) {
        while let Ok(size @ 1..) = self.reader.read(&mut self.buffer).await
            && self.receive(size).is_ok()
        {
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Handles the bytes that were read, and passes lapin a heartbeat if one is due.
    fn receive(&mut self, size: usize) -> io::Result<()> {
        let bytes = self.buffer.get(..size).unwrap_or_default();
        self.demux.receive(bytes)?;
        let (to_lapin, to_others) = self.demux.take_activity();
        if to_lapin {
            self.last_lapin_frame = Instant::now();
        } else if to_others && self.last_lapin_frame.elapsed() >= SYNTHETIC_HEARTBEAT {
            self.last_lapin_frame = Instant::now();
            let mut heartbeat = bytes::BytesMut::new();
            tune::heartbeat(&mut heartbeat);
            self.end.inbound.push(&heartbeat)?;
        }
        Ok(())
    }
}

/// Writes heartbeats when nothing else was written for a while.
#[derive(Default)]
struct HeartbeatTimer {
    /// Ticks twice in a heartbeat interval; `None` until the interval is negotiated.
    ticks: Option<tokio::time::Interval>,
    /// [`WriteMux::bytes_written`] at the last tick.
    written: u64,
}

impl HeartbeatTimer {
    /// Completes after half a heartbeat interval, and writes a heartbeat if nothing else was written
    /// meanwhile. So the broker reads something at least once in an interval. Cancel-safe.
    async fn next(&mut self, mux: &WriteMux) {
        if self.ticks.is_none() {
            // Until the limits are negotiated, there are no heartbeats.
            let Some(Tune { heartbeat: 1.., .. }) = mux.negotiated() else {
                return std::future::pending().await;
            };
        }
        let ticks = self.ticks.get_or_insert_with(|| {
            let seconds = mux.negotiated().map_or(1, |tune| tune.heartbeat.max(1));
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
