//! The events in the servers and workers of the random run, and the recorder that is told of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An event in a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    CallRun {
        id: u64,
        redelivered: bool,
        /// The time from its deadline to its start.
        late: Duration,
    },
    /// A handler has ended whose caller has dropped the call, as it was told.
    CallCancelled {
        id: u64,
    },
    /// The method of a stream has begun.
    StreamRun {
        id: u64,
    },
    /// The stream of the method was dropped, after so many items.
    StreamEnded {
        id: u64,
        sent: u64,
    },
    /// The method of an upload has begun.
    UploadRun {
        id: u64,
    },
    /// The method of an upload was dropped, after it had read so many items, and perhaps their end.
    UploadEnded {
        id: u64,
        read: u64,
        is_whole: bool,
    },
    JobRun {
        id: u64,
        redelivered: bool,
        attempt: u32,
    },
    JobDone {
        id: u64,
    },
    /// The number of an invariant, and what is not so.
    Wrong(String),
}

/// Keeps the events. One that is recorded before an acknowledgement is kept, whatever happens then.
pub trait Recorder: Send + Sync + 'static {
    fn record(&self, event: PeerEvent);
}

/// One line, for a recorder in another process.
impl fmt::Display for PeerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerEvent::CallRun {
                id,
                redelivered,
                late,
            } => write!(f, "call {id} {redelivered} {}", late.as_millis()),
            PeerEvent::JobRun {
                id,
                redelivered,
                attempt,
            } => write!(f, "job {id} {redelivered} {attempt}"),
            PeerEvent::CallCancelled { id } => write!(f, "cancelled {id}"),
            PeerEvent::StreamRun { id } => write!(f, "stream {id}"),
            PeerEvent::StreamEnded { id, sent } => write!(f, "streamed {id} {sent}"),
            PeerEvent::UploadRun { id } => write!(f, "upload {id}"),
            PeerEvent::UploadEnded { id, read, is_whole } => {
                write!(f, "uploaded {id} {read} {is_whole}")
            }
            PeerEvent::JobDone { id } => write!(f, "done {id}"),
            PeerEvent::Wrong(what) => write!(f, "wrong {what}"),
        }
    }
}

impl FromStr for PeerEvent {
    type Err = String;

    fn from_str(line: &str) -> Result<PeerEvent, String> {
        if let Some(what) = line.strip_prefix("wrong ") {
            return Ok(PeerEvent::Wrong(what.to_owned()));
        }
        let words: Vec<&str> = line.split(' ').collect();
        let event = match words[..] {
            ["call", id, redelivered, late] => (|| {
                Some(PeerEvent::CallRun {
                    id: id.parse().ok()?,
                    redelivered: redelivered.parse().ok()?,
                    late: Duration::from_millis(late.parse().ok()?),
                })
            })(),
            ["job", id, redelivered, attempt] => (|| {
                Some(PeerEvent::JobRun {
                    id: id.parse().ok()?,
                    redelivered: redelivered.parse().ok()?,
                    attempt: attempt.parse().ok()?,
                })
            })(),
            ["stream", id] => id.parse().ok().map(|id| PeerEvent::StreamRun { id }),
            ["streamed", id, sent] => (|| {
                let (id, sent) = (id.parse().ok()?, sent.parse().ok()?);
                Some(PeerEvent::StreamEnded { id, sent })
            })(),
            ["upload", id] => id.parse().ok().map(|id| PeerEvent::UploadRun { id }),
            ["uploaded", id, read, is_whole] => (|| {
                Some(PeerEvent::UploadEnded {
                    id: id.parse().ok()?,
                    read: read.parse().ok()?,
                    is_whole: is_whole.parse().ok()?,
                })
            })(),
            ["cancelled", id] => id.parse().ok().map(|id| PeerEvent::CallCancelled { id }),
            ["done", id] => id.parse().ok().map(|id| PeerEvent::JobDone { id }),
            _ => None,
        };
        event.ok_or_else(|| format!("not an event: {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_its_line() {
        let events = [
            PeerEvent::CallRun {
                id: u64::MAX,
                redelivered: true,
                late: Duration::from_millis(3),
            },
            PeerEvent::JobRun {
                id: 7,
                redelivered: false,
                attempt: 2,
            },
            PeerEvent::CallCancelled { id: 9 },
            PeerEvent::StreamRun { id: 4 },
            PeerEvent::StreamEnded { id: 4, sent: 300 },
            PeerEvent::UploadRun { id: 5 },
            PeerEvent::UploadEnded {
                id: 5,
                read: 12,
                is_whole: true,
            },
            PeerEvent::JobDone { id: 8 },
            PeerEvent::Wrong("9: 5 handlers at work, of 4".into()),
        ];
        for event in events {
            assert_eq!(event.to_string().parse(), Ok(event));
        }
        assert!("ready".parse::<PeerEvent>().is_err());
        assert!("job 7 false".parse::<PeerEvent>().is_err());
    }
}
