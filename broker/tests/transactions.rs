//! Transactions, the shared prefetch, routing by several keys, and the history of the dead: the
//! conversations that the conformance suite has with RabbitMQ, here with this broker alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod scenarios;

use amq_protocol::types::FieldTable;
use lepus_broker::{Broker, Target};
use scenarios::{
    Peer, Site, ack, commit, deaths, prefetch, rollback, routing, select, transactions,
};

fn site(broker: &Broker) -> Site {
    Site {
        address: broker.address(),
        name: Box::new(|what| format!("test.{what}")),
    }
}

/// Runs each conversation with a broker of its own.
macro_rules! embedded {
    ($($module:ident: $($scenario:ident),+ $(,)?;)+) => {
        $($(
            #[tokio::test]
            async fn $scenario() {
                let broker = Broker::start().await.unwrap();
                $module::$scenario(site(&broker)).await;
            }
        )+)+
    };
}

scenarios::with_every_conversation!(embedded);

/// A client in a transaction, with a queue that has one job, which is taken.
async fn with_a_job(broker: &Broker) -> Peer {
    let mut peer = site(broker).peer().await;
    peer.declare(1, "q", FieldTable::default()).await;
    peer.publish(1, "", "q", "job").await;
    assert!(peer.get(1, "q", false).await.is_some());
    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    peer
}

#[tokio::test]
async fn a_commit_waits_for_confirms_that_are_withheld() {
    let broker = Broker::start().await.unwrap();
    let faults = broker.faults();
    let mut peer = with_a_job(&broker).await;
    faults.withhold_confirms(Target::All);
    // Nothing published, nothing to wait for.
    peer.send(1, ack(1, false)).await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    peer.publish(1, "", "q", "1").await;
    peer.send(1, commit()).await;
    // The message is there, and another channel goes on.
    peer.open(2).await;
    peer.until_count(2, "q", 1).await;
    assert_eq!(faults.release_confirms(Target::All), 1);
    assert_eq!(peer.text(1).await, "tx.commit-ok");
    peer.publish(1, "", "q", "2").await;
    assert_eq!(peer.ask(1, commit()).await, "tx.commit-ok");
    assert_eq!(peer.bodies(1, "q").await, ["1", "2"]);
}

#[tokio::test]
async fn only_a_close_may_come_before_the_answer_to_a_commit() {
    let broker = Broker::start().await.unwrap();
    let mut peer = with_a_job(&broker).await;
    broker.faults().withhold_confirms(Target::All);
    peer.publish(1, "", "q", "1").await;
    peer.send(1, commit()).await;
    peer.close(1).await;
    broker.faults().release_confirms(Target::All);
    peer.open(1).await;
    // What was not settled is back, and what was committed stays.
    assert_eq!(peer.bodies(1, "q").await, ["job", "1"]);

    assert_eq!(peer.ask(1, select()).await, "tx.select-ok");
    broker.faults().withhold_confirms(Target::All);
    peer.publish(1, "", "q", "2").await;
    peer.send(1, commit()).await;
    peer.send(1, rollback()).await;
    assert_eq!(
        peer.text(0).await,
        "connection.close 504 90 30 CHANNEL_ERROR - unexpected command while processing \
         'tx.commit'"
    );
}

#[tokio::test]
async fn a_nack_on_demand_fails_a_commit() {
    let broker = Broker::start().await.unwrap();
    let faults = broker.faults();
    for withheld in [false, true] {
        let mut peer = with_a_job(&broker).await;
        faults.nack_next(Target::All, 1);
        if withheld {
            faults.withhold_confirms(Target::All);
        }
        peer.publish(1, "", "q", "1").await;
        peer.publish(1, "", "q", "2").await;
        peer.send(1, ack(1, false)).await;
        peer.send(1, commit()).await;
        if withheld {
            peer.open(2).await;
            peer.until_count(2, "q", 2).await;
            faults.release_confirms(Target::All);
        }
        assert_eq!(
            peer.text(1).await,
            "channel.close 406 90 20 PRECONDITION_FAILED - partial tx completion"
        );
        peer.reopen(1).await;
        assert_eq!(peer.bodies(1, "q").await, ["1", "2"]);
    }
}
