//! Cuts the bytes that are read into frames and routes them by their channel number alone.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use super::mux::WriteMux;
use super::pipe::Inward;
use crate::link::channel::{Channels, CoreEvent, Endpoint, Frame, Reply, Violation};
use crate::link::frame::encode;
use crate::link::frame::{FrameChunk, FrameCursor};

/// Largest frame taken before the limits are agreed on. RabbitMQ's first frames have some hundred
/// bytes.
const FRAME_MAX: u32 = 128 * 1024;

/// The reading side of a connection's frames.
pub(super) struct Demux {
    mux: WriteMux,
    channels: Channels,
    inward: Arc<Inward>,
    cursor: FrameCursor,
    frame_max: u32,
    /// The limits are agreed on: they do not change any more.
    is_agreed: bool,
    /// The channel of the frame that has begun; none when it is nobody's.
    endpoint: Option<Arc<Endpoint>>,
    /// The payload of a frame that has to be looked at as a whole and has come in part.
    payload: Vec<u8>,
    /// A whole frame for lapin.
    lapins: BytesMut,
    /// lapin was given something since this was last asked.
    gave_lapin: bool,
    /// Something came on another channel since this was last asked.
    passed_by_lapin: bool,
    events: Vec<CoreEvent<Reply>>,
}

impl Demux {
    pub(super) fn new(mux: WriteMux, channels: Channels, inward: Arc<Inward>) -> Self {
        Self {
            mux,
            channels,
            inward,
            cursor: FrameCursor::default(),
            frame_max: FRAME_MAX,
            is_agreed: false,
            endpoint: None,
            payload: Vec::new(),
            lapins: BytesMut::new(),
            gave_lapin: false,
            passed_by_lapin: false,
            events: Vec::new(),
        }
    }

    /// Whether the broker has spoken since this was last asked: to lapin, in a whole frame, and on
    /// other channels.
    pub(super) fn take_spoken(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.gave_lapin),
            std::mem::take(&mut self.passed_by_lapin),
        )
    }

    /// Takes bytes that were read.
    ///
    /// # Errors
    /// They are not AMQP: the connection cannot go on.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(piece) = self.cursor.next(&mut bytes) {
            if piece.is_first {
                self.begin(&piece)?;
            }
            if piece.end.is_some_and(|end| end != encode::END) {
                return Err(invalid("a frame does not end as it should"));
            }
            if piece.channel == 0 {
                self.pass_to_lapin(&piece)?;
                continue;
            }
            self.passed_by_lapin = true;
            if let Some(endpoint) = &self.endpoint {
                let endpoint = Arc::clone(endpoint);
                self.pass_to(&endpoint, &piece)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, piece: &FrameChunk<'_>) -> io::Result<()> {
        let size = u64::from(piece.size) + (encode::HEAD + encode::TAIL) as u64;
        if !self.is_agreed
            && let Some(tune) = self.mux.agreed()
        {
            self.frame_max = tune.frame_max;
            self.is_agreed = true;
        }
        if size > u64::from(self.frame_max) {
            return Err(invalid("a frame is larger than was agreed on"));
        }
        if piece.channel != 0 {
            self.endpoint = self.channels.get(piece.channel);
            if self.endpoint.is_none() {
                tracing::debug!(
                    channel = piece.channel,
                    "a frame for a channel that is not open, ignored"
                );
            }
        }
        Ok(())
    }

    fn pass_to_lapin(&mut self, piece: &FrameChunk<'_>) -> io::Result<()> {
        if piece.is_first {
            self.lapins.clear();
            encode::put_head(&mut self.lapins, piece.kind, 0, piece.size);
        }
        self.lapins.extend_from_slice(piece.bytes);
        if piece.end.is_some() {
            self.lapins.extend_from_slice(&[encode::END]);
            self.mux.on_event(&self.lapins);
            self.inward.give(&self.lapins)?;
            self.gave_lapin = true;
        }
        Ok(())
    }

    fn pass_to(&mut self, endpoint: &Endpoint, piece: &FrameChunk<'_>) -> io::Result<()> {
        let is_last = piece.end.is_some();
        let handled = match piece.kind {
            encode::BODY => {
                let bytes = piece.bytes;
                self.channels
                    .handle(endpoint, Frame::Body { bytes, is_last }, &mut self.events)
            }
            _ if is_last && piece.is_first => self.whole(endpoint, piece.kind, piece.bytes),
            _ => {
                self.payload.extend_from_slice(piece.bytes);
                if is_last {
                    let mut payload = std::mem::take(&mut self.payload);
                    let handled = self.whole(endpoint, piece.kind, &payload);
                    payload.clear();
                    self.payload = payload;
                    handled
                } else {
                    Ok(())
                }
            }
        };
        handled.map_err(|Violation(text)| invalid(text))
    }

    fn whole(&mut self, endpoint: &Endpoint, kind: u8, payload: &[u8]) -> Result<(), Violation> {
        let frame = match kind {
            encode::METHOD => Frame::Method(payload),
            encode::HEADER => Frame::Header(payload),
            _ => return Err(Violation("a frame of an unknown type")),
        };
        self.channels.handle(endpoint, frame, &mut self.events)
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
