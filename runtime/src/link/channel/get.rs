//! Messages fetched from queues one at a time (`basic.get`).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};

use super::Channel;
use super::{Answer, Delivery, unexpected};
use crate::error::Error;
use crate::link::convert;
use crate::link::session::Session;

/// A channel to fetch messages on.
#[derive(Debug)]
pub(crate) struct GetChannel {
    channel: Arc<Channel>,
}

impl GetChannel {
    /// Opens a channel.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Self, Error> {
        let channel = Channel::open(session).await?;
        Ok(Self { channel })
    }

    /// The channel on which fetched messages are settled.
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Fetches one message of a queue, by its name on the broker: `None` when it is empty. The caller
    /// settles it on the channel.
    ///
    /// Cancel-safe: a message that comes when nobody waits for it any more goes back to its queue.
    pub(crate) async fn poll(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: convert::short(queue)?,
            no_ack: false,
        });
        match self.channel.ask(AMQPClass::Basic(get)).await? {
            Answer::Got(delivery) => {
                if let Some(delivery) = &delivery {
                    self.channel.delivered(delivery.tag);
                }
                Ok(delivery.map(|delivery| *delivery))
            }
            Answer::Method(_) => Err(unexpected()),
        }
    }
}
