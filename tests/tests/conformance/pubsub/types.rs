//! Several types of events on one exchange.

use super::{event, item, passing};
use lepus::{
    Codec, Topic,
    events::{ByPattern, Missed, UnknownTypes},
};
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

conformance!(
    an_enum_says_its_type_in_the_payload,
    separate_types_are_told_apart,
    unknown_types_are_surfaced_on_request,
    variants_and_separate_types_speak_with_each_other,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Tagged {
    Placed { id: u64 },
    Paid { id: u64, cents: u64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Placed {
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Paid {
    id: u64,
    cents: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Either {
    #[serde(rename = "order.placed")]
    Placed(Placed),
    #[serde(rename = "order.paid")]
    Paid { id: u64, cents: u64 },
    #[serde(rename = "order.lost")]
    Lost,
}

async fn an_enum_says_its_type_in_the_payload(env: Env) {
    let connection = env.connect().await;
    for codec in [Codec::Json, Codec::MsgPack] {
        let orders: Topic<Tagged> = passing(&format!("orders.{codec:?}")).codec(codec);
        let mut events = orders
            .subscribe(&connection)
            .bind("#")
            .stream()
            .await
            .unwrap();
        let publisher = orders.publisher(&connection);
        let all = [Tagged::Placed { id: 1 }, Tagged::Paid { id: 1, cents: 250 }];
        for order in &all {
            publisher.publish("order", order).await.unwrap();
        }
        for order in all {
            let event = event(&mut events).await;
            assert_eq!((event.event_type(), event.payload()), (None, &order));
        }
    }
}

async fn separate_types_are_told_apart(env: Env) {
    let connection = env.connect().await;
    let placed = passing::<ByPattern, Placed>("orders").event_type("order.placed");
    let paid = placed.carrying::<Paid>().event_type("order.paid");
    let mut placings = placed
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let mut payments = paid
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let (placing, paying) = (placed.publisher(&connection), paid.publisher(&connection));
    for id in 0..5 {
        placing.publish("order", &Placed { id }).await.unwrap();
        paying
            .publish("order", &Paid { id, cents: 250 })
            .await
            .unwrap();
    }
    for id in 0..5 {
        let placed = event(&mut placings).await;
        assert_eq!(
            (placed.event_type(), placed.payload().id),
            (Some("order.placed"), id)
        );
        assert_eq!(
            event(&mut payments).await.into_payload(),
            Paid { id, cents: 250 }
        );
    }
    eventually("the others are counted", || async {
        connection.stats().skipped_events >= 9
    })
    .await;
    assert_eq!(payments.skipped(), 5);
}

async fn unknown_types_are_surfaced_on_request(env: Env) {
    let connection = env.connect().await;
    let paid = passing::<ByPattern, Paid>("orders").event_type("order.paid");
    let subscribe = paid
        .subscribe(&connection)
        .bind("#")
        .unknown_types(UnknownTypes::Surface);
    let mut events = subscribe.stream().await.unwrap();
    let placed = paid.carrying::<Placed>().event_type("order.placed");
    placed
        .publisher(&connection)
        .publish("order", &Placed { id: 7 })
        .await
        .unwrap();
    paid.publisher(&connection)
        .publish("order", &Paid { id: 7, cents: 1 })
        .await
        .unwrap();
    let Err(Missed::UnknownType(other)) = item(&mut events).await else {
        panic!("known");
    };
    assert_eq!(other.event_type(), Some("order.placed"));
    assert_eq!(
        Codec::MsgPack.decode::<Placed>(other.bytes()).unwrap(),
        Placed { id: 7 }
    );
    assert_eq!(
        event(&mut events).await.into_payload(),
        Paid { id: 7, cents: 1 }
    );
}

async fn variants_and_separate_types_speak_with_each_other(env: Env) {
    let connection = env.connect().await;
    let either = passing::<ByPattern, Either>("orders").types_by_variant();
    let paid = either.carrying::<Paid>().event_type("order.paid");
    let other = either.carrying::<String>().event_type("order.burnt");
    let mut all = either
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let mut payments = paid
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let sent = [
        Either::Placed(Placed { id: 7 }),
        Either::Paid { id: 7, cents: 250 },
        Either::Lost,
    ];
    let publisher = either.publisher(&connection);
    for event in &sent {
        publisher.publish("order", event).await.unwrap();
    }
    other
        .publisher(&connection)
        .publish("order", "ashes")
        .await
        .unwrap();
    paid.publisher(&connection)
        .publish("order", &Paid { id: 8, cents: 1 })
        .await
        .unwrap();

    let types = ["order.placed", "order.paid", "order.lost"];
    for (expected, kind) in sent.into_iter().zip(types) {
        let event = event(&mut all).await;
        assert_eq!(
            (event.event_type(), event.payload()),
            (Some(kind), &expected)
        );
    }
    assert_eq!(
        event(&mut all).await.into_payload(),
        Either::Paid { id: 8, cents: 1 }
    );
    assert_eq!(all.skipped(), 1);
    assert_eq!(
        event(&mut payments).await.into_payload(),
        Paid { id: 7, cents: 250 }
    );
    assert_eq!(
        event(&mut payments).await.into_payload(),
        Paid { id: 8, cents: 1 }
    );
}
