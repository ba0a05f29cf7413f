//! Channels of a connection to the embedded broker: settlements, and the gauge of unsettled deliveries.

use amq_protocol::protocol::basic;
use bytes::Bytes;
use lepus_broker::Broker;

use super::*;
use crate::link::Connection;
use crate::wire::message::Properties;
use crate::wire::name::Name;
use crate::wire::topology::Topology;

const QUEUE: &str = "jobs";

struct ChannelFixture {
    broker: Broker,
    connection: Connection,
    session: Arc<Session>,
}

impl ChannelFixture {
    /// A queue with this many messages.
    async fn with_messages(count: usize) -> Self {
        let broker = Broker::start().await.unwrap();
        let connection = Connection::open(&broker.uri()).await.unwrap();
        let session = connection.consuming().session().await.unwrap();
        let queue = crate::wire::topology::Queue::new(Name::parse(QUEUE).unwrap());
        let topology = Topology::queue(queue);
        declare(&session, &topology, connection.namespace())
            .await
            .unwrap();
        let fixture = Self {
            broker,
            connection,
            session,
        };
        let channel = fixture.channel().await;
        for _ in 0..count {
            channel.publish(&message(), Flush::Inline).unwrap();
        }
        round_trip(&channel).await;
        fixture
    }

    async fn channel(&self) -> Arc<Channel> {
        Channel::open(&self.session).await.unwrap()
    }

    /// Opens a channel and receives this many deliveries on it.
    async fn consume(&self, prefetch: u16, count: usize) -> (Arc<Channel>, Consumer, Vec<u64>) {
        let channel = self.channel().await;
        let mode = ConsumeMode::ManualAck { prefetch };
        let mut consumer = Consumer::start(&channel, QUEUE, mode, None).await.unwrap();
        let mut tags = Vec::new();
        for _ in 0..count {
            tags.push(consumer.next().await.unwrap().tag);
        }
        (channel, consumer, tags)
    }

    /// The gauge of the connection.
    fn unsettled(&self) -> u64 {
        self.connection.stats().unsettled
    }

    /// The ready and the unsettled messages of the queue.
    fn queue(&self) -> (usize, usize) {
        let queue = self.broker.queue(QUEUE).unwrap();
        (queue.ready, queue.unacked)
    }
}

fn message() -> Outgoing {
    Outgoing {
        exchange: String::new(),
        routing_key: QUEUE.into(),
        mandatory: false,
        properties: Properties::default(),
        body: Bytes::from_static(b"x"),
    }
}

/// Waits until the broker has processed everything that was appended on the channel before.
async fn round_trip(channel: &Channel) {
    let qos = basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count: 9,
        global: false,
    });
    channel.call(AMQPClass::Basic(qos)).await.unwrap();
}

#[tokio::test]
async fn an_ack_covers_one_delivery_or_all_up_to_it() {
    let fixture = ChannelFixture::with_messages(5).await;
    let (channel, _consumer, tags) = fixture.consume(5, 5).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (5, (0, 5)));

    channel.ack(tags[1], AckRange::One);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (4, (0, 4)));

    channel.ack(tags[2], AckRange::UpTo);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (2, (0, 2)));

    let acks = [(tags[3], AckRange::One), (tags[4], AckRange::One)];
    channel.ack_all(acks, Flush::Inline);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (0, (0, 0)));
    assert!(channel.is_open());
}

#[tokio::test]
async fn a_requeue_and_a_reject_cover_one_delivery() {
    let fixture = ChannelFixture::with_messages(2).await;
    let (channel, consumer, tags) = fixture.consume(2, 2).await;
    channel.reject(tags[1]);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (1, (0, 1)));
    assert!(consumer.cancel().await.is_empty());
    channel.requeue(tags[0]);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (0, (1, 0)));
}

#[tokio::test]
async fn with_a_prefetch_of_one_a_reply_acknowledges_its_delivery() {
    let fixture = ChannelFixture::with_messages(1).await;
    let (channel, _consumer, tags) = fixture.consume(1, 1).await;
    let reply = Outgoing {
        routing_key: "nowhere".into(),
        ..message()
    };
    assert!(channel.reply(&reply, tags[0]).unwrap());
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (0, (0, 0)));
}

#[tokio::test]
async fn with_a_larger_prefetch_a_reply_leaves_the_acknowledgement_to_its_caller() {
    let fixture = ChannelFixture::with_messages(1).await;
    let (channel, _consumer, tags) = fixture.consume(2, 1).await;
    // To the queue of the request itself, to see when it arrives.
    assert!(!channel.reply(&message(), tags[0]).unwrap());
    assert_eq!(fixture.unsettled(), 1);
    channel.ack_all([(tags[0], AckRange::One)], Flush::Deferred);
    // Nothing is written before the flush: it writes both.
    channel.flush(Flush::Inline);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue().0), (0, 0));
    assert_eq!(fixture.queue().1, 1, "the reply was delivered");
}

#[tokio::test]
async fn a_cancel_gives_the_deliveries_that_were_not_taken() {
    let fixture = ChannelFixture::with_messages(4).await;
    let (channel, consumer, tags) = fixture.consume(4, 1).await;
    let received = consumer.cancel().await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (4, (0, 4)));
    assert_eq!(received.len(), 3);
    for delivery in received {
        channel.requeue(delivery.tag);
    }
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (1, (3, 1)));
    channel.ack(tags[0], AckRange::One);
    round_trip(&channel).await;
    assert_eq!((fixture.unsettled(), fixture.queue()), (0, (3, 0)));
}

#[tokio::test]
async fn a_closed_channel_has_no_unsettled_deliveries() {
    let fixture = ChannelFixture::with_messages(3).await;
    let (channel, consumer, tags) = fixture.consume(3, 3).await;
    channel.close().await;
    assert_eq!(fixture.queue(), (3, 0));
    // Settlements come too late, and write nothing on the number.
    channel.ack(tags[0], AckRange::One);
    assert!(channel.publish(&message(), Flush::Inline).is_err());
    drop((channel, consumer));
    assert_eq!(fixture.unsettled(), 0);
    assert!(fixture.session.is_up());
}

#[tokio::test]
async fn a_message_is_not_published_if_it_cannot_be_recorded() {
    let fixture = ChannelFixture::with_messages(0).await;
    let channel = fixture.channel().await;
    let refused = channel.publish_recorded(&message(), Flush::Inline, || {
        Err(Error::invalid("not recorded"))
    });
    assert!(refused.unwrap_err().is_invalid());
    round_trip(&channel).await;
    assert_eq!(fixture.queue(), (0, 0));
}
