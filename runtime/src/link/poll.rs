//! Messages fetched from queues one at a time (`basic.get`).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};

use super::channel::{Answer, Delivery, unexpected};
use super::convert;
use super::lane::Lane;
use super::session::Session;
use crate::error::Error;

/// A channel to fetch messages on.
#[derive(Debug)]
pub(crate) struct Polling {
    lane: Arc<Lane>,
}

impl Polling {
    /// Opens a channel.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Self, Error> {
        let lane = Lane::open(session).await?;
        Ok(Self { lane })
    }

    /// The channel on which fetched messages are settled.
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Fetches one message of a queue, by its name on the broker: `None` when it is empty. The caller
    /// settles it on the lane.
    ///
    /// Cancel-safe: a message that comes when nobody waits for it any more goes back to its queue.
    pub(crate) async fn poll(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        let get = basic::AMQPMethod::Get(basic::Get {
            queue: convert::short(queue)?,
            no_ack: false,
        });
        match self.lane.ask(AMQPClass::Basic(get)).await? {
            Answer::Got(delivery) => {
                if let Some(delivery) = &delivery {
                    self.lane.delivered(delivery.tag);
                }
                Ok(delivery.map(|delivery| *delivery))
            }
            Answer::Method(_) => Err(unexpected()),
        }
    }
}
