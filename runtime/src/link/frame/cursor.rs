//! Frame boundaries in a byte stream that may be cut anywhere.

use super::encode::{HEAD, TAIL};

/// A position in a stream of frames (AMQP 0-9-1, 2.3.5).
#[derive(Default)]
pub(in crate::link) struct FrameCursor {
    /// The bytes of the current frame after the position, with its end byte.
    remaining: u64,
    /// Whether the position is inside the payload of a frame.
    in_payload: bool,
    /// The head of the current frame, of which `head_size` bytes are known.
    head: [u8; HEAD],
    head_size: usize,
}

/// Consecutive bytes of one frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) struct FrameChunk<'a> {
    pub(in crate::link) kind: u8,
    pub(in crate::link) channel: u16,
    /// The size of the frame's whole payload.
    pub(in crate::link) size: u32,
    pub(in crate::link) bytes: &'a [u8],
    pub(in crate::link) is_first: bool,
    /// The end byte of the frame, if this is its last chunk.
    pub(in crate::link) end: Option<u8>,
}

impl FrameCursor {
    /// A position before a protocol header of `size` bytes, after which the frames begin.
    pub(in crate::link) fn before_header(size: usize) -> Self {
        Self {
            remaining: size as u64,
            ..Self::default()
        }
    }

    /// Whether the position is a frame boundary.
    pub(in crate::link) fn is_at_boundary(&self) -> bool {
        self.remaining == 0 && self.head_size == 0
    }

    /// Takes the next chunk off `bytes`; `None` when they contain no further payload.
    pub(in crate::link) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<FrameChunk<'a>> {
        loop {
            if bytes.is_empty() {
                return None;
            }
            if self.remaining > 0 {
                let max = usize::try_from(self.remaining).unwrap_or(usize::MAX);
                let taken = take(bytes, max);
                self.remaining -= taken.len() as u64;
                let was_in_payload = std::mem::replace(&mut self.in_payload, self.remaining > 0);
                let (end, payload) = match taken.split_last() {
                    Some((end, payload)) if self.remaining == 0 => (Some(*end), payload),
                    _ => (None, taken),
                };
                let [kind, a, b, size @ ..] = self.head;
                return Some(FrameChunk {
                    kind,
                    channel: u16::from_be_bytes([a, b]),
                    size: u32::from_be_bytes(size),
                    bytes: payload,
                    is_first: !was_in_payload,
                    end,
                });
            }
            let taken = take(bytes, HEAD - self.head_size);
            self.head[self.head_size..self.head_size + taken.len()].copy_from_slice(taken);
            self.head_size += taken.len();
            if self.head_size == HEAD {
                let [_, _, _, size @ ..] = self.head;
                // In 64 bits: the largest size and the end would overflow 32.
                self.remaining = u64::from(u32::from_be_bytes(size)) + TAIL as u64;
                self.head_size = 0;
            }
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], max: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(max.min(bytes.len()));
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode((kind, channel, payload): &(u8, u16, Vec<u8>)) -> Vec<u8> {
        let mut frame = vec![*kind];
        frame.extend(channel.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xCE);
        frame
    }

    proptest! {
        #[test]
        fn frames_are_recognized_however_the_stream_is_cut(
            frames in prop::collection::vec(
                (any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)), 0..9,
            ),
            header in prop::option::of(Just(b"AMQP\0\0\x09\x01")),
            cut in 1_usize..40,
        ) {
            let header = header.map_or(&[][..], |header| &header[..]);
            let mut bytes = header.to_vec();
            bytes.extend(frames.iter().flat_map(encode));
            let mut cursor = FrameCursor::before_header(header.len());
            let (mut seen, mut payload, mut header_passed) = (Vec::new(), None, header.is_empty());
            for mut part in bytes.chunks(cut) {
                while let Some(chunk) = cursor.next(&mut part) {
                    prop_assert_eq!(chunk.is_first, payload.is_none());
                    let payload_so_far: &mut Vec<u8> = payload.get_or_insert_default();
                    payload_so_far.extend(chunk.bytes);
                    let Some(end) = chunk.end else { continue };
                    let payload = payload.take().unwrap_or_default();
                    if std::mem::replace(&mut header_passed, true) {
                        prop_assert_eq!((chunk.size as usize, end), (payload.len(), 0xCE));
                        seen.push((chunk.kind, chunk.channel, payload));
                    }
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(cursor.is_at_boundary());
        }
    }
}
