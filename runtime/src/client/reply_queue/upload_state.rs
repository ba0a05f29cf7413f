//! The credit for the items of a call, and their channel.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::link::Channel;
use crate::policy::stream::SendCredit;

/// The items of one stream to its server. The lock around it is held while a message is appended, so that the numbers
/// have the order of the messages.
#[derive(Debug)]
pub(super) struct UploadState {
    pub(super) credit: SendCredit,
    /// The channel of the items. `None` before the first one.
    pub(super) channel: Option<Arc<Channel>>,
    /// The size of the largest message, in bytes.
    pub(super) largest: usize,
    is_closed: bool,
    sender: Option<Waker>,
}

impl UploadState {
    /// Without any credit, which the server gives when it opens the stream.
    pub(super) fn new() -> Self {
        Self {
            credit: SendCredit::new(0),
            channel: None,
            largest: 0,
            is_closed: false,
            sender: None,
        }
    }

    /// The server allows so many items in total. The result is to be woken.
    #[must_use]
    pub(super) fn grant(&mut self, total: u64) -> Option<Waker> {
        if !self.credit.grant(total) {
            return None;
        }
        self.sender.take()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Nobody reads the items any more. The result is to be woken.
    #[must_use]
    pub(super) fn close(&mut self) -> Option<Waker> {
        self.is_closed = true;
        self.sender.take()
    }

    /// Waits for a credit, or for the end.
    pub(super) fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}
