//! TLS with rustls: the handshake, and records over a non-blocking socket.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::link::settings::TlsSettings;
use crate::sync::lock;

/// A TLS session. Its lock lets one thread at a time read or write.
#[derive(Debug)]
pub(super) struct Tls(Mutex<ClientConnection>);

/// Performs the TLS handshake on a connected socket. `host` is the name or IP address that the
/// broker's certificate has to be valid for.
///
/// # Errors
/// The certificate is not trusted or not valid for this host, the settings cannot be parsed, or the
/// peer does not speak TLS.
pub(super) async fn handshake(
    tcp: TcpStream,
    host: &str,
    settings: &TlsSettings,
) -> io::Result<(TcpStream, Tls)> {
    let config = Arc::new(config(settings)?);
    // A URI has an IPv6 address in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    let (tcp, session) = stream.into_inner();
    Ok((tcp, Tls(Mutex::new(session))))
}

fn config(settings: &TlsSettings) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "system certificate authority cannot be read, ignored");
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
                // A close without TLS's `close_notify` is taken as the end of the stream. TLS asks for
                // it to detect truncation, which AMQP detects by itself: it has frames, and a close
                // handshake of its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            if session.read_tls(&mut TcpIo(tcp))? == 0 {
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

/// Writes TLS records until the socket accepts no more. Returns whether none is left.
fn flush(session: &mut ClientConnection, tcp: &TcpStream) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut TcpIo(tcp)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The socket as a blocking reader and writer, which rustls expects; it returns `WouldBlock`.
struct TcpIo<'a>(&'a TcpStream);

impl Read for TcpIo<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for TcpIo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
