//! Transactions, the shared prefetch, routing by several keys, and the history of the dead, frame
//! by frame: the embedded broker answers as RabbitMQ does.

#[path = "../../../../broker/tests/scenarios/mod.rs"]
mod scenarios;

use lepus_tests::{Env, conformance};
use scenarios::Site;

/// The same conversations as in the broker's own tests.
macro_rules! conversations {
    ($($module:ident: $($scenario:ident),+ $(,)?;)+) => {
        $(mod $module {
            use super::{Env, conformance, scenarios, site};

            conformance!($($scenario),+);

            $(async fn $scenario(env: Env) {
                scenarios::$module::$scenario(site(env).await).await;
            })+
        })+
    };
}

async fn site(env: Env) -> Site {
    Site {
        address: address(&env.uri).await,
        name: Box::new(move |what| env.name(what)),
    }
}

async fn address(uri: &str) -> std::net::SocketAddr {
    let authority = uri.rsplit('@').next().expect("user info");
    let host = authority.split('/').next().expect("a host");
    let mut addresses = tokio::net::lookup_host(host).await.expect("a known host");
    addresses.next().expect("an address")
}

conversations! {
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
