//! In-memory byte stream that lapin uses as its socket: it carries the protocol header and the frames of
//! channel 0.

use crate::sync::lock;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::mux::WriteMux;

/// The number of bytes that may wait until lapin reads them. There is little traffic on channel 0, so
/// only a broker that floods it gets here.
pub(super) const MAX_UNREAD: usize = 1024 * 1024;

/// The frame `connection.close-ok`: its type, channel 0, the size of its payload, its class and its method.
const CLOSE_OK: [u8; 11] = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51];

/// The stream that lapin reads and writes. Dropping it closes the connection.
#[derive(Debug)]
pub(in crate::link) struct Pipe {
    mux: WriteMux,
    inbound: Arc<InboundBuffer>,
    /// Dropped with the pipe, which a [`PipeEnd`] notices.
    end: watch::Sender<()>,
}

/// The end of lapin: its thread drops the pipe when it ends.
#[derive(Clone, Debug)]
pub(in crate::link) struct PipeEnd(watch::Receiver<()>);

impl PipeEnd {
    /// Completes when the pipe is dropped.
    pub(in crate::link) async fn wait(&self) {
        // The sender sends nothing, so that this is its drop.
        let _ = self.0.clone().changed().await;
    }
}

/// The bytes that the I/O task has received for lapin and lapin has not read.
#[derive(Debug, Default)]
pub(super) struct InboundBuffer(Mutex<PipeState>);

#[derive(Debug, Default)]
struct PipeState {
    bytes: BytesMut,
    is_ended: bool,
    /// Whether `connection.close-ok` was among the bytes.
    has_close_ok: bool,
    reader: Option<Waker>,
}

impl InboundBuffer {
    fn state(&self) -> MutexGuard<'_, PipeState> {
        lock(&self.0)
    }

    /// Adds a frame for lapin to read.
    ///
    /// # Errors
    /// More than [`MAX_UNREAD`] bytes would wait for lapin.
    pub(super) fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.bytes.len() + bytes.len() > MAX_UNREAD {
            let text = "too many bytes on channel 0 wait to be read";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        state.bytes.extend_from_slice(bytes);
        state.has_close_ok |= bytes.starts_with(&CLOSE_OK);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Whether the broker has answered lapin's `connection.close`. lapin ends by itself then.
    pub(super) fn has_close_ok(&self) -> bool {
        self.state().has_close_ok
    }

    #[cfg(test)]
    pub(super) fn unread(&self) -> usize {
        self.state().bytes.len()
    }

    /// Ends the stream after the bytes that it holds.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_ended = true;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Pipe {
    pub(super) fn new(mux: WriteMux, inbound: Arc<InboundBuffer>) -> Self {
        let end = watch::Sender::new(());
        Self { mux, inbound, end }
    }

    pub(in crate::link) fn end(&self) -> PipeEnd {
        PipeEnd(self.end.subscribe())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.mux.close();
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.inbound.state();
        if !state.bytes.is_empty() {
            let size = state.bytes.len().min(buffer.len());
            let (filled, _) = buffer.split_at_mut(size);
            state.bytes.copy_to_slice(filled);
            return Poll::Ready(Ok(size));
        }
        if state.is_ended {
            return Poll::Ready(Ok(0));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    /// Accepts all bytes at once: lapin writes little on channel 0.
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.mux.append_from_lapin(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
