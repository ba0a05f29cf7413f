//! A TCP connection, with TLS on it where there is to be, that many threads write and one reads.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use super::tls::Tls;

/// The connection below AMQP. It never blocks: what it cannot do now is
/// [`io::ErrorKind::WouldBlock`], and [`ready`](Self::ready) tells when to try again.
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

    #[cfg(feature = "tls")]
    pub(super) fn secure(tcp: TcpStream, tls: Tls) -> Self {
        Self {
            tcp,
            tls: Some(tls),
        }
    }

    /// Waits until there is something to read, or until more can be written if that is asked for.
    ///
    /// # Errors
    /// The runtime is going away.
    pub(super) async fn ready(&self, writes: bool) -> io::Result<tokio::io::Ready> {
        let interest = if writes {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.tcp.ready(interest).await
    }

    /// Reads some bytes; none at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`, or the connection is broken.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_read(&self.tcp, buffer);
        }
        self.tcp.try_read(buffer)
    }

    /// Takes some bytes to be written.
    ///
    /// # Errors
    /// `WouldBlock`, or the connection is broken.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_write(&self.tcp, bytes);
        }
        self.tcp.try_write(bytes)
    }

    /// Writes what TLS has kept of the bytes it took; true when it keeps none.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn try_flush(&self) -> io::Result<bool> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.try_flush(&self.tcp);
        }
        Ok(true)
    }

    /// Whether a read that fills less than its buffer has read all there was.
    pub(super) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_none();
        #[cfg(not(feature = "tls"))]
        true
    }
}
