//! Random operations on a few queues.

use proptest::prelude::*;

use super::{CHANNELS, QUEUES, SHARED};

#[derive(Clone, Debug)]
pub(super) enum Op {
    Publish {
        /// A channel that may be transactional; with `None`, a channel for publishes only.
        channel: Option<usize>,
        queue: usize,
        priority: u8,
        ttl: Option<u64>,
    },
    Consume {
        channel: usize,
        queue: usize,
        no_ack: bool,
    },
    Cancel {
        channel: usize,
        nth: usize,
    },
    Qos {
        channel: usize,
        prefetch: u16,
    },
    /// Sets a prefetch that the consumers of the channel [`SHARED`] share.
    Share {
        prefetch: u16,
    },
    Select {
        channel: usize,
    },
    Commit {
        channel: usize,
    },
    Rollback {
        channel: usize,
    },
    Ack {
        channel: usize,
        nth: usize,
        multiple: bool,
    },
    Nack {
        channel: usize,
        nth: usize,
        multiple: bool,
        requeue: bool,
    },
    Get {
        channel: usize,
        queue: usize,
        no_ack: bool,
    },
    Recover {
        channel: usize,
    },
    Reopen {
        channel: usize,
    },
    Purge {
        queue: usize,
    },
    Sleep {
        millis: u64,
    },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (queue, channel, nth) = (0..QUEUES, 0..CHANNELS, 0..8_usize);
    let transactional = SHARED + 1..CHANNELS;
    prop_oneof![
        8 => (
            proptest::option::weighted(0.4, channel.clone()),
            queue.clone(),
            0..4_u8,
            proptest::option::weighted(0.3, 1..40_u64),
        )
            .prop_map(|(channel, queue, priority, ttl)| {
                Op::Publish { channel, queue, priority, ttl }
            }),
        2 => (channel.clone(), queue.clone(), prop::bool::weighted(0.2))
            .prop_map(|(channel, queue, no_ack)| Op::Consume { channel, queue, no_ack }),
        1 => (channel.clone(), nth.clone()).prop_map(|(channel, nth)| Op::Cancel { channel, nth }),
        1 => (channel.clone(), 0..4_u16).prop_map(|(channel, prefetch)| Op::Qos { channel, prefetch }),
        1 => (0..6_u16).prop_map(|prefetch| Op::Share { prefetch }),
        1 => transactional.clone().prop_map(|channel| Op::Select { channel }),
        2 => transactional.clone().prop_map(|channel| Op::Commit { channel }),
        1 => transactional.prop_map(|channel| Op::Rollback { channel }),
        4 => (channel.clone(), nth.clone(), any::<bool>())
            .prop_map(|(channel, nth, multiple)| Op::Ack { channel, nth, multiple }),
        4 => (channel.clone(), nth, any::<bool>(), any::<bool>())
            .prop_map(|(channel, nth, multiple, requeue)| Op::Nack { channel, nth, multiple, requeue }),
        2 => (channel.clone(), queue.clone(), any::<bool>())
            .prop_map(|(channel, queue, no_ack)| Op::Get { channel, queue, no_ack }),
        1 => channel.clone().prop_map(|channel| Op::Recover { channel }),
        1 => channel.prop_map(|channel| Op::Reopen { channel }),
        1 => queue.prop_map(|queue| Op::Purge { queue }),
        2 => (1..30_u64).prop_map(|millis| Op::Sleep { millis }),
    ]
}
