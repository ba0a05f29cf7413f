//! Faults on demand, as a client suffers them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
    types::FieldTable,
};
use lepus_broker::{Accept, Broker, Cut, Stall, Target};
use support::{
    Env, eventually,
    raw::{Raw, Wish, publish_frames},
};
use tokio::{io::AsyncReadExt, time::timeout};

const A_WHILE: Duration = Duration::from_millis(100);

async fn with_queue(broker: &Broker) -> Raw {
    let mut raw = Raw::ready(broker.address()).await;
    let declare = queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    raw.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
        .await;
    raw.method().await.unwrap();
    raw
}

async fn confirming(broker: &Broker) -> Raw {
    let mut raw = with_queue(broker).await;
    raw.send(
        1,
        AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
            nowait: true,
        })),
    )
    .await;
    raw
}

fn consume(raw_tag: &str) -> basic::AMQPMethod {
    basic::AMQPMethod::Consume(basic::Consume {
        queue: "q".into(),
        consumer_tag: raw_tag.into(),
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    })
}

#[tokio::test]
async fn connections_are_cut_one_or_all() {
    let broker = Broker::start().await.unwrap();
    let mut first = Raw::ready(broker.address()).await;
    let mut second = Raw::ready(broker.address()).await;
    let ids: Vec<_> = broker
        .connections()
        .iter()
        .map(|connection| connection.id)
        .collect();
    assert_eq!(broker.faults().cut(ids[0], Cut::Fin), 1);
    assert!(first.frame().await.is_none());
    eventually(|| async { (broker.connections().len() == 1).then_some(()) }).await;
    assert_eq!(broker.faults().cut(Target::All, Cut::Rst), 1);
    let reset = second.stream.read_u8().await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    eventually(|| async { broker.connections().is_empty().then_some(()) }).await;
    assert_eq!(broker.faults().cut(Target::All, Cut::Rst), 0);
}

#[tokio::test]
async fn unsettled_messages_of_a_cut_connection_come_back() {
    let broker = Broker::start().await.unwrap();
    let mut worker = with_queue(&broker).await;
    worker.basic(consume("w")).await;
    worker.publish("q", b"job", false).await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.unacked == 1) }).await;
    broker.faults().cut(Target::All, Cut::Rst);
    let queue = eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 1) }).await;
    assert_eq!((queue.unacked, queue.consumers), (0, 0));
}

#[tokio::test]
async fn a_stalled_connection_stays_open_and_silent() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    let faults = broker.faults();
    faults.stall(Target::All, Stall::Reading);
    raw.publish("q", b"held up", false).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(broker.queue("q").unwrap().ready, 0);
    faults.resume(Target::All);
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 1) }).await;

    faults.stall(Target::All, Stall::Writing);
    raw.basic(basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: true,
    }))
    .await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 0) }).await;
    assert!(timeout(A_WHILE, raw.method()).await.is_err());
    faults.resume(Target::All);
    assert!(matches!(
        raw.method().await.unwrap(),
        AMQPClass::Basic(basic::AMQPMethod::GetOk(_))
    ));
}

#[tokio::test]
async fn a_stalled_connection_outlives_its_heartbeats() {
    let broker = Broker::start().await.unwrap();
    let wish = Wish {
        heartbeat: 1,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    broker.faults().stall(Target::All, Stall::Both);
    assert!(
        timeout(Duration::from_secs(3), raw.frame()).await.is_err(),
        "a heartbeat came through"
    );
    assert_eq!(broker.connections().len(), 1);
}

#[tokio::test]
async fn confirms_are_withheld_and_released_in_order() {
    let broker = Broker::start().await.unwrap();
    let mut raw = confirming(&broker).await;
    let faults = broker.faults();
    assert_eq!(faults.withhold_confirms(Target::All), 1);
    raw.write(
        &[
            publish_frames("q", b"1", false),
            publish_frames("q", b"2", false),
        ]
        .concat(),
    )
    .await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 2) }).await;
    assert!(timeout(A_WHILE, raw.method()).await.is_err());
    faults.release_confirms(Target::All);
    let mut confirmed = 0;
    while confirmed < 2 {
        match raw.method().await.unwrap() {
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => confirmed = ack.delivery_tag,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_next_publishes_are_nacked() {
    let broker = Broker::start().await.unwrap();
    let mut raw = confirming(&broker).await;
    broker.faults().nack_next(Target::All, 2);
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        raw.publish("q", b"x", false).await;
        outcomes.push(match raw.method().await.unwrap() {
            AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => (ack.delivery_tag, true),
            AMQPClass::Basic(basic::AMQPMethod::Nack(nack)) => (nack.delivery_tag, false),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(outcomes, [(1, false), (2, false), (3, true)]);
}

#[tokio::test]
async fn a_publisher_without_the_permission_to_write_is_refused_until_it_has_it() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    broker.faults().deny_writes(Target::All, true);
    raw.publish("q", b"1", false).await;
    match raw.method().await.unwrap() {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            assert_eq!(close.reply_code, 403);
            let text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'guest'";
            assert_eq!(close.reply_text.as_str(), text);
        }
        other => panic!("{other:?}"),
    }
    broker.faults().deny_writes(Target::All, false);
    let mut raw = confirming(&broker).await;
    raw.publish("q", b"2", false).await;
    match raw.method().await.unwrap() {
        AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => assert_eq!(ack.delivery_tag, 1),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_blocked_publisher_is_told_and_no_longer_read() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    broker.faults().block(Target::All, "for a test");
    match raw.method().await.unwrap() {
        AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) => {
            assert_eq!(blocked.reason.as_str(), "for a test");
        }
        other => panic!("{other:?}"),
    }
    // As with RabbitMQ, what was sent before the publisher stopped is still taken.
    raw.publish("q", b"1", false).await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 1) }).await;
    raw.publish("q", b"2", false).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(broker.queue("q").unwrap().ready, 1);
    broker.faults().unblock(Target::All);
    assert!(matches!(
        raw.method().await.unwrap(),
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_))
    ));
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 2) }).await;
}

#[tokio::test]
async fn consumers_are_cancelled() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    for tag in ["a", "b", "c"] {
        raw.basic(consume(tag)).await;
        raw.method().await.unwrap();
    }
    assert_eq!(broker.consumers().len(), 3);
    assert_eq!(broker.faults().cancel_consumer("b"), 1);
    assert_eq!(broker.faults().cancel_consumers("/", "q"), 2);
    for tag in ["b", "a", "c"] {
        match raw.method().await.unwrap() {
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                assert_eq!(cancel.consumer_tag.as_str(), tag);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(broker.consumers().is_empty());
    assert!(broker.queue("q").is_some());
}

#[tokio::test]
async fn consumers_are_forgotten() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    raw.basic(consume("a")).await;
    raw.method().await.unwrap();
    assert_eq!(broker.faults().forget_consumers("/", "other"), 0);
    assert_eq!(broker.faults().forget_consumers("/", "q"), 1);
    assert!(broker.consumers().is_empty());
    // Neither a cancel nor a delivery comes: the next method is the answer to the next question.
    raw.publish("q", b"x", false).await;
    raw.basic(consume("b")).await;
    match raw.method().await.unwrap() {
        AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(consuming)) => {
            assert_eq!(consuming.consumer_tag.as_str(), "b");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn queues_are_purged_and_deleted_from_outside() {
    let broker = Broker::start().await.unwrap();
    let mut raw = with_queue(&broker).await;
    raw.publish("q", b"x", false).await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 1) }).await;
    assert!(broker.purge_queue("/", "q"));
    assert_eq!(broker.queue("q").unwrap().ready, 0);
    raw.basic(consume("a")).await;
    raw.method().await.unwrap();
    assert!(broker.delete_queue("/", "q"));
    assert!(!broker.delete_queue("/", "q"));
    assert!(matches!(
        raw.method().await.unwrap(),
        AMQPClass::Basic(basic::AMQPMethod::Cancel(_))
    ));
}

#[tokio::test]
async fn newcomers_are_met_as_told() {
    let broker = Broker::start().await.unwrap();
    let mut old = with_queue(&broker).await;
    let faults = broker.faults();

    faults.accept(Accept::Close);
    eventually(|| async {
        let mut raw = Raw::dial(broker.address()).await;
        raw.write(b"AMQP\0\0\x09\x01").await;
        raw.frame().await.is_none().then_some(())
    })
    .await;

    faults.accept(Accept::Silence);
    let mut silenced = Raw::dial(broker.address()).await;
    silenced.write(b"AMQP\0\0\x09\x01").await;
    assert!(timeout(A_WHILE, silenced.frame()).await.is_err());

    faults.accept(Accept::Refuse);
    eventually(|| async {
        let dialled = tokio::net::TcpStream::connect(broker.address()).await;
        dialled
            .err()
            .filter(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
    .await;
    assert!(
        timeout(support::raw::PATIENCE, silenced.frame())
            .await
            .unwrap()
            .is_none()
    );

    faults.accept(Accept::Serve);
    eventually(|| async {
        let dialled = tokio::net::TcpStream::connect(broker.address()).await;
        dialled.ok()
    })
    .await;
    Raw::ready(broker.address()).await;
    old.publish("q", b"still here", false).await;
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 1) }).await;
}

#[tokio::test]
async fn connections_are_closed_with_a_reason() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    assert_eq!(broker.faults().close(Target::All, "maintenance"), 1);
    let close = raw.method().await.unwrap_err().unwrap();
    assert_eq!(
        (close.reply_code, close.reply_text.as_str()),
        (320, "CONNECTION_FORCED - maintenance")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn named_connections_are_targets() {
    let env = Env::embedded(Broker::start().await.unwrap()).await;
    let options = lapin::ConnectionProperties::default().with_connection_name("worker".into());
    let named = lapin::Connection::connect(&env.uri, options).await.unwrap();
    assert_eq!(
        env.broker()
            .faults()
            .cut(Target::Named("worker".to_owned()), Cut::Fin),
        1
    );
    eventually(|| async { (!named.status().connected()).then_some(()) }).await;
    assert!(env.connection.status().connected());
}

#[tokio::test]
async fn shutdown_says_goodbye_and_frees_the_port() {
    let broker = Broker::start().await.unwrap();
    let address = broker.address();
    let mut raw = Raw::ready(address).await;
    let client = tokio::spawn(async move {
        let code = raw.closed_with().await;
        raw.send(
            0,
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})),
        )
        .await;
        assert!(matches!(
            raw.frame().await,
            None | Some(AMQPFrame::Heartbeat)
        ));
        code
    });
    broker.shutdown().await;
    assert_eq!(client.await.unwrap(), 320);
    Broker::builder().address(address).start().await.unwrap();
}

#[tokio::test]
async fn a_dropped_broker_takes_its_connections_along() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    let faults = broker.faults();
    drop(broker);
    assert!(raw.frame().await.is_none());
    assert_eq!(faults.cut(Target::All, Cut::Fin), 0);
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let broker = Broker::start().await.unwrap();
    let error = Broker::builder()
        .address(broker.address())
        .start()
        .await
        .unwrap_err();
    assert!(error.is_address_in_use(), "{error:?}");
}
