//! End of a consumer (`basic.cancel`, or the loss of its channel), and the buffer of deliveries that the
//! end is the last item of.

use crate::error::Error;
use crate::link::socket::channels::Delivery;

/// The reason why a consumer gets no more deliveries.
#[derive(Clone, Debug)]
pub(crate) enum ConsumerEnd {
    /// The broker cancelled the consumer: its queue was deleted, or the queue's leader is down.
    Cancelled,
    /// The channel or the session was closed.
    Lost(Error),
}

/// An item of a consumer's buffer: a delivery, or the end of the consumer.
pub(super) type ConsumerItem = Result<Box<Delivery>, Box<ConsumerEnd>>;
