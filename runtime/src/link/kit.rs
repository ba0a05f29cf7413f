//! What lapin runs on: tokio, but for the socket.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use super::outbox::Outbox;
use super::socket::Socket;

/// Tokio's tasks and timers, and sockets that lapin's thread watches itself.
#[derive(Clone, Debug)]
pub(super) struct Kit {
    tokio: Tokio,
    outbox: Outbox,
}

impl Kit {
    pub(super) fn new(tasks: Handle, outbox: Outbox) -> Self {
        let tokio = Tokio::default().with_handle(tasks);
        Self { tokio, outbox }
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        // lapin never takes a task back: one that is dropped before its end had its runtime taken
        // away, and what nobody looks after any more is better ended.
        let bell = self.outbox.bell().clone();
        let lifeline = bell.lifeline();
        self.tokio.spawn(async move {
            let output = bell.ringing(future).await;
            lifeline.release();
            output
        })
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Socket;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin has no other handles than its socket.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Socket, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    /// lapin is given its socket by `dial`.
    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Socket>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
