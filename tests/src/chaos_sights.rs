//! The things that those who serve and work in the random run see and do, and whoever is told of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Something that a handler did, or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    CallRun {
        id: u64,
        redelivered: bool,
        /// The time from its deadline to its begin.
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

/// Whoever hears of it. What is told before an acknowledgement is kept, whatever happens then.
pub trait Witness: Send + Sync + 'static {
    fn hears(&self, sight: Sight);
}

/// One line, for a witness in another process.
impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sight::CallRun {
                id,
                redelivered,
                late,
            } => write!(f, "call {id} {redelivered} {}", late.as_millis()),
            Sight::JobRun {
                id,
                redelivered,
                attempt,
            } => write!(f, "job {id} {redelivered} {attempt}"),
            Sight::CallCancelled { id } => write!(f, "cancelled {id}"),
            Sight::StreamRun { id } => write!(f, "stream {id}"),
            Sight::StreamEnded { id, sent } => write!(f, "streamed {id} {sent}"),
            Sight::UploadRun { id } => write!(f, "upload {id}"),
            Sight::UploadEnded { id, read, is_whole } => {
                write!(f, "uploaded {id} {read} {is_whole}")
            }
            Sight::JobDone { id } => write!(f, "done {id}"),
            Sight::Wrong(what) => write!(f, "wrong {what}"),
        }
    }
}

impl FromStr for Sight {
    type Err = String;

    fn from_str(line: &str) -> Result<Sight, String> {
        if let Some(what) = line.strip_prefix("wrong ") {
            return Ok(Sight::Wrong(what.to_owned()));
        }
        let words: Vec<&str> = line.split(' ').collect();
        let sight = match words[..] {
            ["call", id, redelivered, late] => (|| {
                Some(Sight::CallRun {
                    id: id.parse().ok()?,
                    redelivered: redelivered.parse().ok()?,
                    late: Duration::from_millis(late.parse().ok()?),
                })
            })(),
            ["job", id, redelivered, attempt] => (|| {
                Some(Sight::JobRun {
                    id: id.parse().ok()?,
                    redelivered: redelivered.parse().ok()?,
                    attempt: attempt.parse().ok()?,
                })
            })(),
            ["stream", id] => id.parse().ok().map(|id| Sight::StreamRun { id }),
            ["streamed", id, sent] => (|| {
                let (id, sent) = (id.parse().ok()?, sent.parse().ok()?);
                Some(Sight::StreamEnded { id, sent })
            })(),
            ["upload", id] => id.parse().ok().map(|id| Sight::UploadRun { id }),
            ["uploaded", id, read, is_whole] => (|| {
                Some(Sight::UploadEnded {
                    id: id.parse().ok()?,
                    read: read.parse().ok()?,
                    is_whole: is_whole.parse().ok()?,
                })
            })(),
            ["cancelled", id] => id.parse().ok().map(|id| Sight::CallCancelled { id }),
            ["done", id] => id.parse().ok().map(|id| Sight::JobDone { id }),
            _ => None,
        };
        sight.ok_or_else(|| format!("not a sight: {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sight_survives_its_line() {
        let sights = [
            Sight::CallRun {
                id: u64::MAX,
                redelivered: true,
                late: Duration::from_millis(3),
            },
            Sight::JobRun {
                id: 7,
                redelivered: false,
                attempt: 2,
            },
            Sight::CallCancelled { id: 9 },
            Sight::StreamRun { id: 4 },
            Sight::StreamEnded { id: 4, sent: 300 },
            Sight::UploadRun { id: 5 },
            Sight::UploadEnded {
                id: 5,
                read: 12,
                is_whole: true,
            },
            Sight::JobDone { id: 8 },
            Sight::Wrong("9: 5 handlers at work, of 4".into()),
        ];
        for sight in sights {
            assert_eq!(sight.to_string().parse(), Ok(sight));
        }
        assert!("ready".parse::<Sight>().is_err());
        assert!("job 7 false".parse::<Sight>().is_err());
    }
}
