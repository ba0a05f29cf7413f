//! One connection through the proxy: two pumps, and an end.

use super::{Chunk, Cut, Mode, Shared, Way, lock};
use crate::frames::Cursor;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

/// The number of bytes back at which a trap may begin.
const MEMORY: usize = 4096;

/// The handle by which the proxy reaches a connection.
#[derive(Debug)]
pub(super) struct Link {
    cut: watch::Sender<Option<Cut>>,
    injector: mpsc::UnboundedSender<Vec<u8>>,
}

impl Link {
    pub(super) fn new(
        cut: watch::Sender<Option<Cut>>,
        injector: mpsc::UnboundedSender<Vec<u8>>,
    ) -> Self {
        Link { cut, injector }
    }

    /// Was it there to be cut?
    pub(super) fn cut(&self, how: Cut) -> bool {
        self.cut.send(Some(how)).is_ok()
    }

    pub(super) fn inject(&self, bytes: &[u8]) {
        // A connection that has just ended has nobody to inject to.
        let _ = self.injector.send(bytes.to_vec());
    }
}

pub(super) async fn serve(
    shared: &Shared,
    id: u64,
    mode: Mode,
    mut client: TcpStream,
    mut cuts: watch::Receiver<Option<Cut>>,
    injections: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    if mode == Mode::AcceptThenClose {
        return finish(client);
    }
    if mode == Mode::AcceptSilent {
        // Its client may give up, which is an end as well.
        let mut nowhere = tokio::io::sink();
        let how = tokio::select! {
            how = cut(&mut cuts) => how,
            _ = tokio::io::copy(&mut client, &mut nowhere) => Cut::Fin,
        };
        return end(how, [client]);
    }
    let connect = TcpStream::connect((shared.upstream.0.as_str(), shared.upstream.1));
    let mut server = tokio::select! {
        connected = connect => match connected {
            Ok(server) => server,
            Err(_) => return end(Cut::Rst, [client]),
        },
        how = cut(&mut cuts) => return end(how, [client]),
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let how = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (_nothing, no_injections) = mpsc::unbounded_channel();
        let up = Pump::new(shared, id, Way::Up, to_server).run(from_client, no_injections);
        let down = Pump::new(shared, id, Way::Down, to_client).run(from_server, injections);
        tokio::select! {
            // First: what was stalled when it was cut does not pass, though it is resumed at once.
            biased;
            how = cut(&mut cuts) => how,
            ended = async { tokio::try_join!(up, down) } => match ended {
                Ok(_) => Cut::Fin,
                // One side was reset: so is the other.
                Err(_) => Cut::Rst,
            },
        }
    };
    end(how, [client, server]);
}

async fn cut(cuts: &mut watch::Receiver<Option<Cut>>) -> Cut {
    match cuts.wait_for(Option::is_some).await.map(|how| *how) {
        Ok(Some(how)) => how,
        _ => Cut::Rst,
    }
}

fn end<const N: usize>(how: Cut, streams: [TcpStream; N]) {
    for stream in streams {
        match how {
            Cut::Fin => finish(stream),
            // To close with a zero linger is to reset.
            Cut::Rst => drop(stream.set_zero_linger()),
        }
    }
}

/// Closes with a FIN. To drop a stream with unread bytes would reset it, so what
/// still comes is read and forgotten.
fn finish(mut stream: TcpStream) {
    tokio::spawn(tokio::time::timeout(Duration::from_secs(5), async move {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    }));
}

struct Pump<'a> {
    shared: &'a Shared,
    id: u64,
    way: Way,
    to: WriteHalf<'a>,
    passed: Vec<u8>,
    cursor: Cursor,
    injected: Vec<u8>,
}

impl<'a> Pump<'a> {
    fn new(shared: &'a Shared, id: u64, way: Way, to: WriteHalf<'a>) -> Self {
        Pump {
            shared,
            id,
            way,
            to,
            passed: Vec::new(),
            cursor: Cursor::default(),
            injected: Vec::new(),
        }
    }

    async fn run(
        mut self,
        mut from: ReadHalf<'_>,
        mut injections: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read?,
                Some(bytes) = injections.recv() => {
                    self.injected.extend(bytes);
                    self.inject().await?;
                    continue;
                }
            };
            if read == 0 {
                self.wait().await;
                return self.to.shutdown().await;
            }
            self.garble(&mut buffer[..read]);
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                self.wait().await;
                let slow = self.shared.control.borrow().slow;
                let mut piece = rest;
                if let Some(slow) = slow {
                    // The fault itself.
                    tokio::time::sleep(slow.delay).await;
                    piece = &rest[..slow.piece.clamp(1, rest.len())];
                }
                let passed = self.pass(piece).await?;
                rest = &rest[passed..];
            }
        }
    }

    fn garble(&self, bytes: &mut [u8]) {
        let text = self.shared.state().garbled.clone();
        if self.way == Way::Down || text.is_empty() {
            return;
        }
        for at in 0..bytes.len() {
            if bytes[at..].starts_with(&text) {
                bytes[at..at + text.len()].fill(0xFF);
            }
        }
    }

    /// Until this direction is not stalled.
    async fn wait(&self) {
        let mut control = self.shared.control.subscribe();
        // The sender lives as long as `shared`.
        let _ = control
            .wait_for(|control| !control.is_stalled(self.way))
            .await;
    }

    /// Passes bytes on, up to where a trap springs; says how many.
    async fn pass(&mut self, piece: &[u8]) -> io::Result<usize> {
        let (piece, sprung) = {
            let mut state = self.shared.state();
            let at = |spring: &super::trap::Spring| spring.at(self.way, &self.passed, piece);
            let first = state
                .traps
                .iter()
                .enumerate()
                .filter_map(|(i, t)| Some((at(t)?, i)))
                .min();
            match first {
                Some((length, index)) => {
                    // Before a byte is written, so that nothing behind it slips through.
                    self.shared
                        .control
                        .send_modify(|control| *control.stalled(self.way) = true);
                    (&piece[..length], Some(state.traps.swap_remove(index)))
                }
                None => (piece, None),
            }
        };
        for tap in &self.shared.state().taps {
            lock(tap).push(Chunk {
                link: self.id,
                way: self.way,
                bytes: piece.to_vec(),
            });
        }
        self.passed.extend(piece);
        let forget = self.passed.len().saturating_sub(MEMORY);
        self.passed.drain(..forget);
        // A client's stream begins with no frame; only a broker's is followed.
        let boundary = match self.way {
            Way::Up => None,
            Way::Down => self.cursor.feed(piece),
        };
        match boundary {
            Some(boundary) if !self.injected.is_empty() => {
                self.to.write_all(&piece[..boundary]).await?;
                self.to
                    .write_all(&std::mem::take(&mut self.injected))
                    .await?;
                self.to.write_all(&piece[boundary..]).await?;
            }
            _ => self.to.write_all(piece).await?,
        }
        if let Some(spring) = sprung {
            spring.spring();
        }
        Ok(piece.len())
    }

    async fn inject(&mut self) -> io::Result<()> {
        self.wait().await;
        if self.cursor.is_between() {
            self.to
                .write_all(&std::mem::take(&mut self.injected))
                .await?;
        }
        Ok(())
    }
}
