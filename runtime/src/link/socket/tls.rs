//! TLS through rustls: the handshake, and its records over a socket that never blocks.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::transport::Transport;
use crate::link::settings::TlsSettings;
use crate::sync::lock;

/// A TLS session. Reading and writing take turns under its lock.
#[derive(Debug)]
pub(super) struct Tls(Mutex<ClientConnection>);

/// Does the handshake on a connected socket; `host` is the name or the IP address that the
/// certificate has to be for.
///
/// # Errors
/// A certificate that is not trusted or not for this host, settings that cannot be read, or a peer
/// that speaks no TLS.
pub(in crate::link) async fn secure(
    tcp: TcpStream,
    host: &str,
    settings: &TlsSettings,
) -> io::Result<Transport> {
    let config = Arc::new(config(settings)?);
    // An IPv6 address stands in brackets in a URI.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    let (tcp, session) = stream.into_inner();
    Ok(Transport::secure(tcp, Tls(Mutex::new(session))))
}

fn config(settings: &TlsSettings) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "a certificate authority of the system cannot be read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(pem) = &settings.authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    match &settings.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificates, key)) => {
            let certificates: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(certificates).collect();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
            builder
                .with_client_auth_cert(certificates.map_err(io::Error::other)?, key)
                .map_err(io::Error::other)
        }
    }
}

impl Tls {
    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        lock(&self.0)
    }

    pub(super) fn try_read(&self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes its socket without a word of TLS ends the stream, too: AMQP
                // says by itself how far it got.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            if session.read_tls(&mut Socket(tcp))? == 0 {
                return Ok(0);
            }
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    pub(super) fn try_write(&self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.session();
        if !flush(&mut session, tcp)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = session.writer().write(bytes)?;
        flush(&mut session, tcp)?;
        Ok(taken)
    }

    pub(super) fn try_flush(&self, tcp: &TcpStream) -> io::Result<bool> {
        flush(&mut self.session(), tcp)
    }
}

/// Writes records until none is left or the socket takes no more; true when none is left.
fn flush(session: &mut ClientConnection, tcp: &TcpStream) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut Socket(tcp)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The socket as rustls reads and writes it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
