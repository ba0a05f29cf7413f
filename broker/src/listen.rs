//! Listening socket, and the treatment of new connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};

use crate::{net::serve, shared::Shared};

/// The treatment of clients that connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accept {
    /// The connection is served.
    #[default]
    Serve,
    /// The connection is accepted and closed at once.
    Close,
    /// The connection is accepted, and nothing is read or written on it.
    Silence,
    /// The port is closed, so that the operating system refuses the connection.
    Refuse,
}

/// The current treatment of new connections, and the signal that it has changed.
#[derive(Debug, Default)]
pub(crate) struct AcceptMode {
    mode: Mutex<Accept>,
    changed: Notify,
}

impl AcceptMode {
    pub(crate) fn set(&self, how: Accept) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = how;
        self.changed.notify_one();
    }

    fn mode(&self) -> Accept {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the port. An address that another broker has just released can be used at once.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Accepts connections until it is dropped.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    accept_mode: Arc<AcceptMode>,
    listener: TcpListener,
    address: SocketAddr,
) {
    let mut listener = Some(listener);
    let mut unanswered: Vec<TcpStream> = Vec::new();
    loop {
        let mode = accept_mode.mode();
        if mode == Accept::Refuse {
            listener = None;
        }
        if mode != Accept::Silence {
            unanswered.clear();
        }
        let Some(open) = &listener else {
            if mode == Accept::Refuse {
                accept_mode.changed.notified().await;
            } else {
                listener = reopen(address).await;
            }
            continue;
        };
        let (stream, peer) = tokio::select! {
            accepted = open.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely there are no free file descriptors, and some will be released.
                    tracing::warn!(%error, %address, "connection not accepted, trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            },
            () = accept_mode.changed.notified() => continue,
        };
        match accept_mode.mode() {
            Accept::Serve => {
                tokio::spawn(serve(shared.clone(), stream, peer.to_string()));
            }
            Accept::Silence => unanswered.push(stream),
            Accept::Close | Accept::Refuse => drop(stream),
        }
    }
}

async fn reopen(address: SocketAddr) -> Option<TcpListener> {
    match listen(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, %address, "cannot listen on the address, trying again");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            None
        }
    }
}
