//! Adjustments to channel 0, which otherwise belongs to lapin.
//!
//! 1. **`connection.tune-ok`**: lapin is configured for one channel and small frames, because it opens
//!    no channel and sizes its buffers by `frame_max`. The limits in its `tune-ok` are replaced by
//!    those that Lepus and the broker agree on.
//! 2. **A heartbeat to lapin** when the broker has sent frames on other channels only: any traffic
//!    substitutes for a heartbeat (AMQP 0-9-1, 4.2.7), but lapin sees channel 0 alone.
//! 3. **A heartbeat to the broker** when nothing else was written for a while: lapin writes nothing
//!    while the connection is blocked by an alarm, and a broker that receives nothing for two
//!    intervals closes the connection.
//! 4. **The SASL responses in `connection.start-ok` and `secure-ok`**: lapin gets masks of them,
//!    because it logs the frames that it sends, and the responses replace the masks here.

use bytes::BytesMut;

use crate::link::frame::encode::{self, HEAD};
use crate::link::sasl::Responses;

/// The class and method ids of `connection.tune`.
const TUNE: [u8; 4] = [0, 10, 0, 30];
/// `connection.tune-ok`.
const TUNE_OK: [u8; 4] = [0, 10, 0, 31];
/// `connection.start-ok`.
const START_OK: [u8; 4] = [0, 10, 0, 11];
/// `connection.secure-ok`.
const SECURE_OK: [u8; 4] = [0, 10, 0, 21];
/// The offset of a method's arguments in its frame.
const ARGUMENTS: usize = HEAD + 4;
/// The frame size that every peer has to accept (AMQP 0-9-1, `frame-min-size`).
const FRAME_MIN: u32 = 4096;
/// The size of the arguments of both methods: channel_max, frame_max and heartbeat.
const SIZE: usize = 2 + 4 + 2;

/// The limits of a connection (`connection.tune`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) struct Tune {
    /// The highest channel number.
    pub(in crate::link) channel_max: u16,
    /// The largest frame in bytes, with its head and its end byte.
    pub(in crate::link) frame_max: u32,
    /// Seconds between heartbeats; 0 for none.
    pub(in crate::link) heartbeat: u16,
}

impl Tune {
    /// The smaller limits of both sides, where 0 means no limit. The heartbeat is `theirs`.
    fn agree(self, theirs: Self) -> Self {
        let channel_max = match (self.channel_max, theirs.channel_max) {
            (0, 0) => u16::MAX,
            (0, limit) | (limit, 0) => limit,
            (ours, theirs) => ours.min(theirs),
        };
        let frame_max = match (self.frame_max, theirs.frame_max) {
            (ours, 0) => ours,
            (0, theirs) => theirs,
            (ours, theirs) => ours.min(theirs),
        };
        Self {
            channel_max,
            frame_max: frame_max.max(FRAME_MIN),
            heartbeat: theirs.heartbeat,
        }
    }

    fn read(frame: &[u8], method: [u8; 4]) -> Option<Self> {
        if frame.first() != Some(&encode::METHOD) || frame.get(HEAD..ARGUMENTS) != Some(&method) {
            return None;
        }
        let arguments = frame.get(ARGUMENTS..ARGUMENTS + SIZE)?;
        let [a, b, c, d, e, f, g, h] = *arguments else {
            return None;
        };
        Some(Self {
            channel_max: u16::from_be_bytes([a, b]),
            frame_max: u32::from_be_bytes([c, d, e, f]),
            heartbeat: u16::from_be_bytes([g, h]),
        })
    }
}

/// The negotiation of a connection's limits (`connection.tune`, `connection.tune-ok`).
#[derive(Debug)]
pub(super) struct Negotiation {
    wanted: Tune,
    responses: Responses,
    offered: Option<Tune>,
    negotiated: Option<Tune>,
}

impl Negotiation {
    pub(super) fn new(wanted: Tune, responses: Responses) -> Self {
        Self {
            wanted,
            responses,
            offered: None,
            negotiated: None,
        }
    }

    pub(super) fn negotiated(&self) -> Option<Tune> {
        self.negotiated
    }

    /// Reads the offered limits, if a frame from the broker on channel 0 is a `connection.tune`.
    pub(super) fn observe(&mut self, frame: &[u8]) {
        if let Some(tune) = Tune::read(frame, TUNE) {
            self.offered = Some(tune);
        }
    }

    /// The first and the fourth adjustment: writes the negotiated limits into lapin's
    /// `connection.tune-ok`, and the responses over their masks. Other frames of lapin are not changed.
    pub(super) fn adjust(&mut self, frame: &mut [u8]) {
        if self.negotiated.is_some() {
            return;
        }
        if let Some((mask, response)) = masked(frame, &self.responses) {
            mask.copy_from_slice(response);
            return;
        }
        let (Some(theirs), Some(offered)) = (Tune::read(frame, TUNE_OK), self.offered) else {
            return;
        };
        let negotiated = Tune {
            heartbeat: theirs.heartbeat,
            ..self.wanted.agree(offered)
        };
        let limits = negotiated
            .channel_max
            .to_be_bytes()
            .into_iter()
            .chain(negotiated.frame_max.to_be_bytes());
        let places = frame.iter_mut().skip(ARGUMENTS);
        places.zip(limits).for_each(|(place, byte)| *place = byte);
        self.negotiated = Some(negotiated);
        // The login is complete, so the secrets need not stay in memory.
        self.responses = Responses::default();
    }
}

/// The mask in a frame of lapin, and the response of the same length to replace it with.
fn masked<'a>(frame: &'a mut [u8], responses: &'a Responses) -> Option<(&'a mut [u8], &'a [u8])> {
    if frame.first() != Some(&encode::METHOD) {
        return None;
    }
    let method: [u8; 4] = frame.get(HEAD..ARGUMENTS)?.try_into().ok()?;
    let length = |at: usize| -> Option<usize> {
        let bytes = frame.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let (at, response) = match method {
        // The response is the third argument, after a table (the client's properties) and a short
        // string (the mechanism).
        START_OK => {
            let mechanism = ARGUMENTS + 4 + length(ARGUMENTS)?;
            let at = mechanism + 1 + usize::from(*frame.get(mechanism)?);
            (at, &responses.start)
        }
        SECURE_OK => (ARGUMENTS, &responses.secure),
        _ => return None,
    };
    let size = length(at).filter(|size| *size == response.len())?;
    let begin = at + 4;
    Some((frame.get_mut(begin..begin + size)?, response))
}

/// The second and the third adjustment: a heartbeat frame.
pub(super) fn heartbeat(out: &mut BytesMut) {
    encode::put_heartbeat(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: [u8; 20] = [
        1, 0, 0, 0, 0, 0, 12, 0, 10, 0, 30, 7, 255, 0, 2, 0, 0, 0, 60, 0xCE,
    ];

    fn answer(channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
        let mut frame = vec![1, 0, 0, 0, 0, 0, 12, 0, 10, 0, 31];
        frame.extend(channel_max.to_be_bytes());
        frame.extend(frame_max.to_be_bytes());
        frame.extend(heartbeat.to_be_bytes());
        frame.push(0xCE);
        frame
    }

    fn restored(wanted: (u16, u32), offer: &[u8]) -> (Vec<u8>, Option<Tune>) {
        let wanted = Tune {
            channel_max: wanted.0,
            frame_max: wanted.1,
            heartbeat: 0,
        };
        let mut negotiation = Negotiation::new(wanted, Responses::default());
        negotiation.observe(offer);
        let mut frame = answer(1, 16_384, 10);
        negotiation.adjust(&mut frame);
        (frame, negotiation.negotiated())
    }

    #[test]
    fn tune_ok_contains_the_limits_that_lepus_wants() {
        let (frame, negotiated) = restored((0, 131_072), &OFFER);
        // channel_max 2047, frame_max 131,072 and lapin's heartbeat.
        let golden = [
            1, 0, 0, 0, 0, 0, 12, 0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 10, 0xCE,
        ];
        assert_eq!(frame, golden);
        let expected = Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 10,
        };
        assert_eq!(negotiated, Some(expected));
    }

    #[test]
    fn the_smaller_limit_counts_and_zero_means_no_limit() {
        let limits = |wanted, offer: &[u8]| {
            let (frame, _) = restored(wanted, offer);
            frame[ARGUMENTS..ARGUMENTS + 6].to_vec()
        };
        assert_eq!(limits((20, 4096), &OFFER), [0, 20, 0, 0, 16, 0]);
        let mut unlimited = OFFER;
        unlimited[ARGUMENTS..ARGUMENTS + 6].fill(0);
        assert_eq!(limits((0, 131_072), &unlimited), [255, 255, 0, 2, 0, 0]);
        // A frame_max below AMQP's minimum is raised to it.
        let mut tiny = OFFER;
        tiny[ARGUMENTS + 2..ARGUMENTS + 6].copy_from_slice(&[0, 0, 0, 9]);
        assert_eq!(limits((0, 131_072), &tiny)[2..], [0, 0, 16, 0]);
    }

    #[test]
    fn other_frames_are_not_changed() {
        let wanted = Tune {
            channel_max: 0,
            frame_max: 131_072,
            heartbeat: 0,
        };
        let mut negotiation = Negotiation::new(wanted, Responses::default());
        negotiation.observe(&OFFER);
        for whole in [
            &b"\x08\0\0\0\0\0\0\xCE"[..],
            &OFFER[..],
            &answer(1, 4096, 1)[..14],
        ] {
            let mut frame = whole.to_vec();
            negotiation.adjust(&mut frame);
            assert_eq!(frame, whole);
            assert_eq!(negotiation.negotiated(), None);
        }
    }

    #[test]
    fn responses_replace_their_masks() {
        let responses = Responses {
            start: b"\0hare\0s3cret".to_vec(),
            secure: b"My password is s3cret".to_vec(),
        };
        let wanted = Tune {
            channel_max: 0,
            frame_max: 131_072,
            heartbeat: 0,
        };
        let start_ok = |response: &[u8]| {
            let mut arguments = b"\0\x0a\0\x0b\0\0\0\x05\x01at\x01\x01\x05PLAIN".to_vec();
            arguments.extend(u32::try_from(response.len()).unwrap().to_be_bytes());
            arguments.extend(response);
            arguments.extend(b"\x05en_US");
            whole(&arguments)
        };
        let secure_ok = |response: &[u8]| {
            let mut arguments = b"\0\x0a\0\x15".to_vec();
            arguments.extend(u32::try_from(response.len()).unwrap().to_be_bytes());
            arguments.extend(response);
            whole(&arguments)
        };
        let mut negotiation = Negotiation::new(wanted, responses.clone());
        for (mask, response) in [
            (start_ok(&[b'*'; 12]), start_ok(&responses.start)),
            (secure_ok(&[b'*'; 21]), secure_ok(&responses.secure)),
        ] {
            let mut frame = mask.clone();
            negotiation.adjust(&mut frame);
            assert_eq!(frame, response);
            // Frames that are truncated, or whose response has another length, are not changed.
            for end in 0..mask.len() {
                negotiation.adjust(&mut mask.clone()[..end]);
            }
        }
        let mut other = start_ok(b"other");
        negotiation.adjust(&mut other);
        assert_eq!(other, start_ok(b"other"));
        assert!(
            !format!("{negotiation:?}").contains("115"),
            "{negotiation:?}"
        );
    }

    fn whole(arguments: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(arguments.len()).unwrap().to_be_bytes());
        frame.extend(arguments);
        frame.push(0xCE);
        frame
    }

    #[test]
    fn a_heartbeat_is_an_empty_frame_on_channel_0() {
        let mut out = BytesMut::new();
        heartbeat(&mut out);
        assert_eq!(&out[..], b"\x08\0\0\0\0\0\0\xCE");
    }
}
