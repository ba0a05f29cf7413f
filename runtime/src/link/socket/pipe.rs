//! lapin's end of the connection: an ordinary in-memory byte stream.

use crate::sync::lock;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};

use super::mux::WriteMux;

/// So much waits for lapin at most. It reads on a thread of its own, and what comes on channel 0 is
/// little.
pub(super) const MAX_UNREAD: usize = 1024 * 1024;

/// The stream that lapin reads channel 0 from and writes it to. Dropping it ends the connection.
#[derive(Debug)]
pub(in crate::link) struct Pipe {
    mux: WriteMux,
    inward: Arc<Inward>,
}

/// The bytes on their way from the I/O task to lapin.
#[derive(Debug, Default)]
pub(super) struct Inward(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    is_over: bool,
    reader: Option<Waker>,
}

impl Inward {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Gives lapin bytes to read.
    ///
    /// # Errors
    /// lapin does not read, and the broker does not stop.
    pub(super) fn give(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.bytes.len() + bytes.len() > MAX_UNREAD {
            let text = "too much on channel 0 is not read yet";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        state.bytes.extend_from_slice(bytes);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn unread(&self) -> usize {
        self.state().bytes.len()
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Pipe {
    pub(super) fn new(mux: WriteMux, inward: Arc<Inward>) -> Self {
        Self { mux, inward }
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
        let mut state = self.inward.state();
        if !state.bytes.is_empty() {
            let size = state.bytes.len().min(buffer.len());
            let (filled, _) = buffer.split_at_mut(size);
            state.bytes.copy_to_slice(filled);
            return Poll::Ready(Ok(size));
        }
        if state.is_over {
            return Poll::Ready(Ok(0));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    /// Takes everything at once: what lapin says of a connection is little.
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.mux.put_from_lapin(bytes))
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
