//! Read demultiplexer: splits the byte stream from the broker into frames and routes each by its
//! channel number, 0 to lapin and the others to the channel table.
//!
//! Frames for lapin are passed on whole. Body frames of a channel are passed on in the pieces in which
//! they are read; method and header frames are collected first if they arrive in pieces.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use super::mux::WriteMux;
use super::pipe::InboundBuffer;
use crate::link::frame::encode;
use crate::link::frame::{DEFAULT_FRAME_MAX, FrameChunk, FrameCursor};
use crate::link::socket::channels::{
    ChannelEntry, Channels, CoreEvent, Frame, MethodReplySender, Violation,
};

/// The demultiplexer of one connection, used by its I/O task alone.
pub(super) struct Demux {
    mux: WriteMux,
    channels: Channels,
    inbound: Arc<InboundBuffer>,
    cursor: FrameCursor,
    frame_max: u32,
    /// Whether `frame_max` is the negotiated limit.
    limits_known: bool,
    /// The channel of the current frame; `None` if no channel with its number is open.
    entry: Option<Arc<ChannelEntry>>,
    /// The payload of a method or header frame of which only a part has arrived.
    payload: Vec<u8>,
    /// The current frame for lapin, as far as it has arrived.
    lapin_frame: BytesMut,
    /// Whether lapin was passed a frame since [`take_activity`](Self::take_activity) was called.
    lapin_received: bool,
    /// Whether bytes on other channels arrived since [`take_activity`](Self::take_activity) was called.
    others_received: bool,
    /// Empty between two frames; kept so that not every frame allocates a vector.
    events: Vec<CoreEvent<MethodReplySender>>,
}

impl Demux {
    pub(super) fn new(mux: WriteMux, channels: Channels, inbound: Arc<InboundBuffer>) -> Self {
        Self {
            mux,
            channels,
            inbound,
            cursor: FrameCursor::default(),
            frame_max: DEFAULT_FRAME_MAX,
            limits_known: false,
            entry: None,
            payload: Vec::new(),
            lapin_frame: BytesMut::new(),
            lapin_received: false,
            others_received: false,
            events: Vec::new(),
        }
    }

    /// Whether a whole frame for lapin, and whether bytes on other channels have arrived since the last
    /// call.
    pub(super) fn take_activity(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.lapin_received),
            std::mem::take(&mut self.others_received),
        )
    }

    /// Handles bytes that were read.
    ///
    /// # Errors
    /// The broker has violated the protocol, and the connection has to be closed.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(chunk) = self.cursor.next(&mut bytes) {
            if chunk.is_first {
                self.begin_frame(&chunk)?;
            }
            if chunk.end.is_some_and(|end| end != encode::END) {
                return Err(invalid("a frame without its end byte"));
            }
            if chunk.channel == 0 {
                self.pass_to_lapin(&chunk)?;
                continue;
            }
            self.others_received = true;
            if let Some(entry) = &self.entry {
                let entry = Arc::clone(entry);
                self.pass_to_channel(&entry, &chunk)?;
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, chunk: &FrameChunk<'_>) -> io::Result<()> {
        let size = u64::from(chunk.size) + (encode::HEAD + encode::TAIL) as u64;
        if !self.limits_known
            && let Some(tune) = self.mux.negotiated()
        {
            self.frame_max = tune.frame_max;
            self.limits_known = true;
        }
        if size > u64::from(self.frame_max) {
            return Err(invalid("a frame larger than the negotiated frame_max"));
        }
        if chunk.channel != 0 {
            self.entry = self.channels.get(chunk.channel);
            if self.entry.is_none() {
                tracing::debug!(
                    channel = chunk.channel,
                    "frame for a channel that is not open, ignored"
                );
            }
        }
        Ok(())
    }

    fn pass_to_lapin(&mut self, chunk: &FrameChunk<'_>) -> io::Result<()> {
        if chunk.is_first {
            self.lapin_frame.clear();
            encode::put_head(&mut self.lapin_frame, chunk.kind, 0, chunk.size);
        }
        self.lapin_frame.extend_from_slice(chunk.bytes);
        if chunk.end.is_some() {
            self.lapin_frame.extend_from_slice(&[encode::END]);
            self.mux.observe(&self.lapin_frame);
            self.inbound.push(&self.lapin_frame)?;
            self.lapin_received = true;
        }
        Ok(())
    }

    fn pass_to_channel(&mut self, entry: &ChannelEntry, chunk: &FrameChunk<'_>) -> io::Result<()> {
        let is_last = chunk.end.is_some();
        let handled = match chunk.kind {
            encode::BODY => {
                let bytes = chunk.bytes;
                self.channels
                    .handle(entry, Frame::Body { bytes, is_last }, &mut self.events)
            }
            _ if is_last && chunk.is_first => self.handle_whole(entry, chunk.kind, chunk.bytes),
            _ => {
                self.payload.extend_from_slice(chunk.bytes);
                if is_last {
                    let mut payload = std::mem::take(&mut self.payload);
                    let handled = self.handle_whole(entry, chunk.kind, &payload);
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

    fn handle_whole(
        &mut self,
        entry: &ChannelEntry,
        kind: u8,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let frame = match kind {
            encode::METHOD => Frame::Method(payload),
            encode::HEADER => Frame::Header(payload),
            _ => return Err(Violation("a frame of unknown type")),
        };
        self.channels.handle(entry, frame, &mut self.events)
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
