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

embedded! {
    transactions:
        a_channel_is_transactional_or_confirms,
        publishes_wait_for_the_commit,
        routes_are_those_of_the_publish,
        returns_come_at_the_commit,
        an_error_of_a_publish_comes_at_once,
        settlements_wait_for_the_commit,
        a_delivery_is_settled_once,
        an_uncommitted_settlement_makes_no_room,
        recovering_leaves_out_what_is_settled,
        closing_rolls_back,
        a_refused_message_fails_the_commit,
        direct_replies_do_not_wait,
        a_message_is_as_old_as_its_commit,
        other_commands_do_not_wait;
    prefetch:
        a_shared_prefetch_is_shared_fairly,
        a_consumer_without_acknowledgements_waits_for_room,
        a_shared_prefetch_ends,
        gotten_messages_count_when_it_is_set,
        what_is_given_back_makes_room,
        what_is_given_back_is_held_to_the_length,
        quorum_queues_know_no_shared_prefetch;
    routing:
        an_alternate_exchange_gets_what_no_key_routes,
        a_bound_exchange_is_given_all_keys,
        the_default_exchange_is_no_alternate,
        a_copy_reaches_a_direct_reply_address,
        keys_that_are_no_texts_are_passed_over;
    deaths:
        the_dead_go_on_by_all_their_keys,
        repeated_entries_become_one,
        a_message_that_goes_round_keeps_its_history;
}

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
