//! One socket with two users: lapin maintains the connection (channel 0), Lepus owns all other
//! channels. This page is the design; the files below fill it in.
//!
//! ```text
//!   callers, handlers, workers                      lapin (channel 0 only)
//!        │ whole frames                                  │ bytes
//!        ▼                                               ▼
//!   channels::Channels (one core per channel)       pipe::Pipe (in memory)
//!        │                                               │
//!        └───────────► mux::WriteMux ◄───────────────────┘
//!                      one buffer of whole frames, written by the appending thread,
//!                      the rest by the I/O task
//!                           │
//!                  transport::Transport (TCP, with or without TLS)
//!                           │
//!                    task::IoTask reads ──► demux::Demux ──► lapin's pipe, if the channel is 0
//!                                                        └─► Channels, if it is not
//! ```
//!
//! AMQP 0-9-1 multiplexes channels over a connection, and the second and third byte of a frame are the
//! number of its channel. So two programs can share a connection if each channel has one owner.
//!
//! - **Writers.** lapin writes the protocol header and the frames of channel 0: `start-ok`, `tune-ok`,
//!   `open`, heartbeats, `update-secret`, `close`. Lepus writes the frames of every other channel, from
//!   `channel.open` to `channel.close-ok`, and makes the adjustments to channel 0 that `tune.rs` lists.
//! - **Order.** Frames are written in the order in which they were appended to the buffer. There is no
//!   other mechanism: a frame that has to come first is appended first (a reply before the
//!   acknowledgement of its request, a publish before the next one).
//! - **Locks.** A thread that appends frames of a channel holds the lock of the buffer, and under it
//!   the lock of the channel's core (`channels/table.rs`). So the check that a channel is open and the
//!   appending of its frames are one step.
//! - **Reading.** Only the I/O task reads. It handles each frame itself: a channel's
//!   [`ChannelHandler`](channels::ChannelHandler) is called on the I/O task, without a lock held,
//!   and must not block. The exception is the loss or the close of the session, which is told by the
//!   thread that notices it.
//! - **Back-pressure.** Above the high-water mark of the buffer, publishers wait before they append more.
//! - **Close.** The first to notice closes the buffer: the I/O task at the end of the stream, lapin by
//!   dropping its pipe, or the session when it is closed. The I/O task then ends, lapin reads the end
//!   of its stream, and the session marks all channels as lost. In an orderly close, lapin ends first,
//!   after it has read `connection.close-ok`, because it logs an end of its stream before that as an error.

pub(super) mod channels;
mod demux;
mod mux;
mod pipe;
mod task;
#[cfg(test)]
pub(super) mod testing;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod tune;

pub(super) use mux::WriteMux;
pub(crate) use mux::{BurstDetector, Flush, WriteOffset};
pub(super) use pipe::{Pipe, PipeEnd};
pub(super) use task::Socket;
pub(super) use transport::Transport;
pub(super) use tune::Tune;
