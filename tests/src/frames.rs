//! AMQP frames as bytes: enough to read a tap, to find a frame's boundary and to
//! make the frames that a proxy slips in.

/// One frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 1 method, 2 content header, 3 content body, 8 heartbeat.
    pub kind: u8,
    pub channel: u16,
    pub payload: Vec<u8>,
}

/// `basic.publish`, as [`Frame::method`] gives it.
pub const BASIC_PUBLISH: (u16, u16) = (60, 40);
/// `basic.deliver`.
pub const BASIC_DELIVER: (u16, u16) = (60, 60);
/// `basic.ack`, from either side.
pub const BASIC_ACK: (u16, u16) = (60, 80);
/// `channel.open`.
pub const CHANNEL_OPEN: (u16, u16) = (20, 10);
/// `connection.start`, a broker's first frame.
pub const CONNECTION_START: (u16, u16) = (10, 10);

const METHOD: u8 = 1;
const HEADER: usize = 7;
const END: u8 = 0xCE;

impl Frame {
    /// Class and method, if it is a method frame.
    pub fn method(&self) -> Option<(u16, u16)> {
        match self.payload[..] {
            [a, b, c, d, ..] if self.kind == METHOD => {
                Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            _ => None,
        }
    }

    /// The frame as it travels.
    pub fn encode(&self) -> Vec<u8> {
        let size = u32::try_from(self.payload.len()).expect("a frame below 4 GB");
        let mut bytes = vec![self.kind];
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(&self.payload);
        bytes.push(END);
        bytes
    }
}

/// The whole frames in one direction of a connection, a client's protocol header
/// and an unfinished last frame aside.
pub fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    if bytes.starts_with(b"AMQP") {
        bytes = &bytes[8.min(bytes.len())..];
    }
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = size(header);
        let Some(payload) = bytes.get(HEADER..HEADER + length) else {
            break;
        };
        let Some(&end) = bytes.get(HEADER + length) else {
            break;
        };
        assert_eq!(end, END, "a frame ends in 0xCE");
        found.push(Frame {
            kind: header[0],
            channel: u16::from_be_bytes([header[1], header[2]]),
            payload: payload.to_vec(),
        });
        bytes = &bytes[HEADER + length + 1..];
    }
    found
}

/// `connection.blocked`: a broker that runs out of memory sends it.
pub fn blocked(reason: &str) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 60];
    payload.push(u8::try_from(reason.len()).expect("a short string"));
    payload.extend(reason.as_bytes());
    connection_frame(payload)
}

/// `connection.unblocked`.
pub fn unblocked() -> Vec<u8> {
    connection_frame(vec![0, 10, 0, 61])
}

/// `connection.close`: a broker's last word on a connection.
pub fn close(code: u16, text: &str) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 50];
    payload.extend(code.to_be_bytes());
    payload.push(u8::try_from(text.len()).expect("a short string"));
    payload.extend(text.as_bytes());
    // It is about no method.
    payload.extend([0; 4]);
    connection_frame(payload)
}

fn connection_frame(payload: Vec<u8>) -> Vec<u8> {
    Frame {
        kind: METHOD,
        channel: 0,
        payload,
    }
    .encode()
}

fn size(header: &[u8; HEADER]) -> usize {
    u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize
}

/// Follows a broker's stream of frames, to tell where one ends.
#[derive(Debug, Default)]
pub struct Cursor {
    header: Vec<u8>,
    left: usize,
}

impl Cursor {
    /// Takes `bytes` in; gives how many of them lead up to the last boundary
    /// among them, or `None` when they are all within one frame.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut boundary = None;
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let step = self.left.min(bytes.len() - at);
                self.left -= step;
                at += step;
                if self.left == 0 {
                    boundary = Some(at);
                }
                continue;
            }
            self.header.push(bytes[at]);
            at += 1;
            if let Some(header) = self.header.first_chunk::<HEADER>() {
                self.left = size(header) + 1;
                self.header.clear();
            }
        }
        boundary
    }

    /// Is nothing of a frame outstanding?
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_as_they_were_written() {
        let two = [blocked("low on memory"), unblocked()].concat();
        let read = frames(&[b"AMQP\0\0\x09\x01", &two[..]].concat());
        assert_eq!(
            read.iter().map(Frame::method).collect::<Vec<_>>(),
            [Some((10, 60)), Some((10, 61))]
        );
        assert_eq!(read.iter().flat_map(Frame::encode).collect::<Vec<_>>(), two);
        assert_eq!(
            frames(&two[..two.len() - 1]).len(),
            1,
            "an unfinished frame waits"
        );
    }

    #[test]
    fn the_cursor_finds_boundaries_wherever_the_bytes_are_split() {
        let one = blocked("x");
        let stream = [one.clone(), unblocked()].concat();
        for split in 0..=stream.len() {
            let mut cursor = Cursor::default();
            let first = cursor.feed(&stream[..split]);
            let expected = [stream.len(), one.len()]
                .into_iter()
                .find(|&end| split >= end);
            assert_eq!(first, expected, "split at {split}");
            assert_eq!(
                cursor.is_between(),
                [0, one.len(), stream.len()].contains(&split)
            );
            cursor.feed(&stream[split..]);
            assert!(cursor.is_between());
        }
    }
}
