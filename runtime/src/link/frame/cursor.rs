//! Tracks frame boundaries in a byte stream that may be cut anywhere.

use super::encode::{HEAD, TAIL};

/// The position in a stream of frames (AMQP 0-9-1, 2.3.5).
#[derive(Default)]
pub(in crate::link) struct FrameCursor {
    /// Bytes of the frame that are yet to come, its end included.
    left: u64,
    /// Some bytes of the frame's payload have passed.
    is_begun: bool,
    head: [u8; HEAD],
    has: usize,
}

/// Some bytes of a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) struct FrameChunk<'a> {
    pub(in crate::link) kind: u8,
    pub(in crate::link) channel: u16,
    /// Of the frame's payload.
    pub(in crate::link) size: u32,
    pub(in crate::link) bytes: &'a [u8],
    pub(in crate::link) is_first: bool,
    /// The byte after the payload, where this is the last piece.
    pub(in crate::link) end: Option<u8>,
}

impl FrameCursor {
    /// A stream that begins with a greeting of so many bytes, which is no frame.
    pub(in crate::link) fn after(greeting: usize) -> Self {
        Self {
            left: greeting as u64,
            ..Self::default()
        }
    }

    /// Whether the stream is at a frame boundary.
    pub(in crate::link) fn is_whole(&self) -> bool {
        self.left == 0 && self.has == 0
    }

    /// The next piece of these bytes, which are no longer among them; none when all have passed.
    pub(in crate::link) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<FrameChunk<'a>> {
        loop {
            if bytes.is_empty() {
                return None;
            }
            if self.left > 0 {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let passed = take(bytes, most);
                self.left -= passed.len() as u64;
                let was_begun = std::mem::replace(&mut self.is_begun, self.left > 0);
                let (end, payload) = match passed.split_last() {
                    Some((end, payload)) if self.left == 0 => (Some(*end), payload),
                    _ => (None, passed),
                };
                let [kind, a, b, size @ ..] = self.head;
                return Some(FrameChunk {
                    kind,
                    channel: u16::from_be_bytes([a, b]),
                    size: u32::from_be_bytes(size),
                    bytes: payload,
                    is_first: !was_begun,
                    end,
                });
            }
            let passed = take(bytes, HEAD - self.has);
            self.head[self.has..self.has + passed.len()].copy_from_slice(passed);
            self.has += passed.len();
            if self.has == HEAD {
                let [_, _, _, size @ ..] = self.head;
                // In 64 bits: the largest size and the end would overflow 32.
                self.left = u64::from(u32::from_be_bytes(size)) + TAIL as u64;
                self.has = 0;
            }
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
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
        fn frames_are_told_apart_however_they_are_cut(
            frames in prop::collection::vec(
                (any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)), 0..9,
            ),
            greeting in prop::option::of(Just(b"AMQP\0\0\x09\x01")),
            cut in 1_usize..40,
        ) {
            let greeting = greeting.map_or(&[][..], |greeting| &greeting[..]);
            let mut bytes = greeting.to_vec();
            bytes.extend(frames.iter().flat_map(encode));
            let mut progress = FrameCursor::after(greeting.len());
            let (mut seen, mut payload, mut greeted) = (Vec::new(), None, greeting.is_empty());
            for mut part in bytes.chunks(cut) {
                while let Some(piece) = progress.next(&mut part) {
                    prop_assert_eq!(piece.is_first, payload.is_none());
                    let payload_so_far: &mut Vec<u8> = payload.get_or_insert_default();
                    payload_so_far.extend(piece.bytes);
                    let Some(end) = piece.end else { continue };
                    let payload = payload.take().unwrap_or_default();
                    if std::mem::replace(&mut greeted, true) {
                        prop_assert_eq!((piece.size as usize, end), (payload.len(), 0xCE));
                        seen.push((piece.kind, piece.channel, payload));
                    }
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(progress.is_whole());
        }
    }
}
