//! Message fetching, one at a time (`basic.get`).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};

use super::Channel;
use crate::error::Error;
use crate::link::convert;
use crate::link::session::Session;
use crate::link::socket::channels::{Delivery, MethodReply, unexpected_reply};

/// A channel for fetching messages.
#[derive(Debug)]
pub(crate) struct GetChannel {
    channel: Arc<Channel>,
}

impl GetChannel {
    /// Opens a channel.
    ///
    /// # Errors
    /// As [`Channel::open`].
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Self, Error> {
        let channel = Channel::open(session).await?;
        Ok(Self { channel })
    }

    /// The channel on which fetched messages are settled.
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Fetches one message from a queue, given by its name on the broker: `None` when it is empty. The
    /// caller settles the message on [`channel`](Self::channel).
    ///
    /// Cancel-safe: if the future is dropped, a message that arrives later is requeued.
    ///
    /// # Errors
    /// As [`Channel::call`].
    pub(crate) async fn poll(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: convert::short(queue)?,
            no_ack: false,
        });
        match self.channel.call_for_reply(AMQPClass::Basic(get)).await? {
            MethodReply::Got(delivery) => {
                if let Some(delivery) = &delivery {
                    self.channel.track_delivery(delivery.tag);
                }
                Ok(delivery.map(|delivery| *delivery))
            }
            MethodReply::Method(_) => Err(unexpected_reply()),
        }
    }
}
