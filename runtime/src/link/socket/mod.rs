//! One socket for two users: lapin keeps the connection (channel 0), Lepus runs all other channels.
//!
//! ```text
//!   callers, handlers, workers                      lapin (channel 0 only)
//!        │ whole frames                                  │ bytes
//!        ▼                                               ▼
//!   channel::Channels (one core a channel)          pipe::Pipe (in memory)
//!        │                                               │
//!        └───────────► mux::WriteMux ◄───────────────────┘
//!                      one buffer of whole frames, written by the thread that appends,
//!                      else by the task
//!                           │
//!                  transport::Transport (TCP, or TLS on it)
//!                           │
//!                      task::Task reads ──► demux::Demux ──► lapin, if the channel is 0
//!                                                        └─► Channels, if it is not
//! ```
//!
//! AMQP 0-9-1 multiplexes channels over a connection, and a frame says in its second and third byte
//! which channel it belongs to. So two programs can share a connection if each channel has one
//! owner.
//!
//! - **lapin writes** the protocol header and the frames of channel 0: start-ok, tune-ok, open,
//!   heartbeats, secrets, the close. **Lepus writes** the frames of every other channel, from
//!   `channel.open` to `channel.close-ok`, and the adjustments to channel 0 in `tune.rs`.
//! - **Order**: frames are on the wire in the order in which they were appended to the buffer. That
//!   is all there is; whatever has to come first is appended first (a reply before the
//!   acknowledgement of its request, a publish before the next one).
//! - **Reading** is the task's alone. What it reads is handled on the task: events of a channel are
//!   told to its owner there, without a lock held, and an owner must not block.
//! - **The end**: whoever finds it first (the task at the end of the stream, lapin by dropping its
//!   pipe, a session that is closed) closes the buffer; the task then ends, and lapin reads the end
//!   of its stream.

mod demux;
mod mux;
mod pipe;
mod task;
#[cfg(test)]
mod testing;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod tune;

pub(super) use mux::WriteMux;
pub(crate) use mux::{BurstDetector, Flush, WriteOffset};
pub(super) use pipe::Pipe;
pub(super) use task::Socket;
#[cfg(feature = "tls")]
pub(super) use tls::secure;
pub(super) use transport::Transport;
pub(super) use tune::Tune;
