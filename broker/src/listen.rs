//! The listening socket, and how newcomers are met.

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

/// How clients that connect are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accept {
    /// They are served.
    #[default]
    Serve,
    /// They are accepted and closed at once.
    Close,
    /// They are accepted and never answered.
    Silence,
    /// The port is closed: the system refuses them.
    Refuse,
}

/// The mode in force, and its changes.
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

/// Opens the port. The address may be used again at once after a broker has left it.
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

/// Accepts for ever.
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
                    // Out of descriptors, most likely: others may end meanwhile.
                    tracing::warn!(%error, "cannot accept");
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
            tracing::warn!(%error, %address, "cannot listen again yet");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            None
        }
    }
}
