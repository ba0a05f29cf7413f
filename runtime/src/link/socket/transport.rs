//! TCP connection, with or without TLS, that one task reads and many threads write.

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

#[cfg(feature = "tls")]
use super::tls::{self, Tls};
#[cfg(feature = "tls")]
use crate::link::settings::TlsSettings;

/// The byte stream below AMQP.
#[derive(Debug)]
pub(in crate::link) struct Transport {
    tcp: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The reading half, for one task.
#[derive(Debug)]
pub(super) struct TransportReader {
    tcp: OwnedReadHalf,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

/// The writing half, for any thread. It never blocks: a write returns [`io::ErrorKind::WouldBlock`],
/// and [`writable`](Self::writable) completes when to try again.
#[derive(Debug)]
pub(in crate::link) struct TransportWriter {
    tcp: OwnedWriteHalf,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Transport {
    pub(in crate::link) fn plain(tcp: TcpStream) -> Self {
        Self {
            tcp,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Performs the TLS handshake on a connected socket. `host` is the name or IP address that the
    /// broker's certificate has to be valid for.
    ///
    /// # Errors
    /// The certificate is not trusted or not valid for this host, the settings cannot be parsed, or
    /// the peer does not speak TLS.
    #[cfg(feature = "tls")]
    pub(in crate::link) async fn secure(
        tcp: TcpStream,
        host: &str,
        settings: &TlsSettings,
    ) -> io::Result<Self> {
        let (tcp, tls) = tls::handshake(tcp, host, settings).await?;
        Ok(Self {
            tcp,
            tls: Some(tls),
        })
    }

    pub(super) fn split(self) -> (TransportReader, TransportWriter) {
        let (reader, writer) = self.tcp.into_split();
        #[cfg(feature = "tls")]
        let tls = self.tls.map(Arc::new);
        let reader = TransportReader {
            tcp: reader,
            #[cfg(feature = "tls")]
            tls: tls.clone(),
        };
        let writer = TransportWriter {
            tcp: writer,
            #[cfg(feature = "tls")]
            tls,
        };
        (reader, writer)
    }
}

impl TransportReader {
    /// Reads some bytes; 0 at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// Reading from the socket failed, or its runtime is shutting down.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let tcp = self.tcp.as_ref();
            loop {
                match tls.try_read(tcp, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
                tcp.readable().await?;
            }
        }
        // Unlike `try_read`, this takes a buffer that is not filled as a sign that the socket is empty,
        // and saves the system call that would return `WouldBlock`.
        self.tcp.read(buffer).await
    }
}

impl TransportWriter {
    /// Waits until the socket is writable. Cancel-safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// Writes some bytes. With TLS, accepted bytes may stay buffered until
    /// [`try_flush`](Self::try_flush).
    ///
    /// # Errors
    /// `WouldBlock`, or writing to the socket failed.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_write(self.tcp.as_ref(), bytes);
        }
        self.tcp.try_write(bytes)
    }

    /// Writes the bytes that TLS has buffered. Returns whether none is left.
    ///
    /// # Errors
    /// Writing to the socket failed.
    pub(super) fn try_flush(&self) -> io::Result<bool> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_flush(self.tcp.as_ref());
        }
        Ok(true)
    }

    /// Whether there is no TLS, so that accepted bytes need no flush.
    pub(super) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_none();
        #[cfg(not(feature = "tls"))]
        true
    }
}
