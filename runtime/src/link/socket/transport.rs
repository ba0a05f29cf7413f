//! TCP connection, with or without TLS, that one task reads and many threads write.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use super::tls::{self, Tls};
#[cfg(feature = "tls")]
use crate::link::settings::TlsSettings;

/// The byte stream below AMQP. It never blocks: reads and writes return
/// [`io::ErrorKind::WouldBlock`], and [`ready`](Self::ready) completes when to try again.
#[derive(Debug)]
pub(in crate::link) struct Transport {
    tcp: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
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

    /// Waits until the socket is readable or, if `writes` is set, writable.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(super) async fn ready(&self, writes: bool) -> io::Result<tokio::io::Ready> {
        let interest = if writes {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.tcp.ready(interest).await
    }

    /// Reads some bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`, or reading from the socket failed.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_read(&self.tcp, buffer);
        }
        self.tcp.try_read(buffer)
    }

    /// Writes some bytes. With TLS, accepted bytes may stay buffered until
    /// [`try_flush`](Self::try_flush).
    ///
    /// # Errors
    /// `WouldBlock`, or writing to the socket failed.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_write(&self.tcp, bytes);
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
            return tls.try_flush(&self.tcp);
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
