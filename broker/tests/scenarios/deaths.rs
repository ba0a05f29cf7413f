//! The history of dead letters in `x-death`, and the keys they go on by.

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable},
};

use super::{Message, Peer, Site, list, long, nack, reject, table};

/// A message's deaths in one line each, with its fields in order.
fn deaths(message: &Message) -> Vec<String> {
    let headers = message.properties.headers().clone().unwrap_or_default();
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        return Vec::new();
    };
    let death = |value: &AMQPValue| {
        let fields = value.as_field_table().unwrap().inner();
        let fields = fields.iter().filter(|(name, _)| name.as_str() != "time");
        let texts: Vec<_> = fields
            .map(|(name, value)| format!("{name} {}", text(value)))
            .collect();
        texts.join(", ")
    };
    deaths.as_slice().iter().map(death).collect()
}

fn text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::FieldArray(values) => {
            let values: Vec<_> = values.as_slice().iter().map(text).collect();
            values.join("+")
        }
        other => format!("{other:?}"),
    }
}

fn header(message: &Message, name: &str) -> Option<String> {
    let headers = message.properties.headers().clone().unwrap_or_default();
    headers.inner().get(name).map(text)
}

/// Publishes to a queue, gets it from there and rejects it.
async fn die(peer: &mut Peer, queue: &str, headers: FieldTable) {
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_expiration("60000".into());
    peer.publish_properties(1, "", queue, "body", false, properties)
        .await;
    peer.until_count(1, queue, 1).await;
    let got = peer.get(1, queue, false).await.unwrap();
    peer.send(1, reject(got.tag, false)).await;
}

/// The keys that a message came by are all told, and it goes on by all of them, `BCC` included,
/// unless its queue has a key for the dead.
pub(crate) async fn the_dead_go_on_by_all_their_keys(site: Site) {
    let mut peer = site.peer().await;
    let exchange = site.name("exchange");
    peer.exchange(&exchange, "direct", FieldTable::default())
        .await;
    let (queue, keyed) = (site.name("queue"), site.name("keyed"));
    let mut graves = Vec::new();
    for key in [queue.as_str(), "copy", "blind", "dead"] {
        let grave = site.name(&format!("{}-grave", key.rsplit('.').next().unwrap()));
        peer.declare(1, &grave, FieldTable::default()).await;
        peer.bind(&grave, &exchange, key).await;
        graves.push(grave);
    }
    let to_exchange = || ("x-dead-letter-exchange", long(&exchange));
    peer.declare(1, &queue, table([to_exchange()])).await;
    let arguments = table([to_exchange(), ("x-dead-letter-routing-key", long("dead"))]);
    peer.declare(1, &keyed, arguments).await;
    let headers = || table([("CC", list(&["copy"])), ("BCC", list(&["blind"]))]);

    die(&mut peer, &queue, headers()).await;
    for grave in &graves[..3] {
        peer.until_count(1, grave, 1).await;
        let dead = peer.get(1, grave, true).await.unwrap();
        assert_eq!(dead.routing_key, queue);
        assert_eq!(
            deaths(&dead),
            [format!(
                "count 1, exchange , original-expiration 60000, queue {queue}, reason rejected, \
                 routing-keys {queue}+copy"
            )]
        );
        assert_eq!(header(&dead, "CC").as_deref(), Some("copy"));
        assert_eq!(header(&dead, "BCC"), None);
    }
    assert_eq!(peer.count(1, &graves[3]).await, 0);

    die(&mut peer, &keyed, headers()).await;
    peer.until_count(1, &graves[3], 1).await;
    let dead = peer.get(1, &graves[3], true).await.unwrap();
    assert_eq!(dead.routing_key, "dead");
    assert_eq!(
        deaths(&dead),
        [format!(
            "count 1, exchange , original-expiration 60000, queue {keyed}, reason rejected, \
             routing-keys {keyed}+copy"
        )]
    );
    assert_eq!(header(&dead, "CC"), None);
    for grave in &graves[..3] {
        assert_eq!(peer.count(1, grave).await, 0);
    }
    peer.delete_exchange(&exchange).await;
}

/// One entry of a history that the publisher wrote itself.
fn entry(queue: &str, mark: i64, count: Option<i64>) -> AMQPValue {
    let mut entry = table([
        ("queue", long(queue)),
        ("reason", long("rejected")),
        ("mark", AMQPValue::LongLongInt(mark)),
    ]);
    if let Some(count) = count {
        entry.insert("count".into(), AMQPValue::LongLongInt(count));
    }
    AMQPValue::FieldTable(entry)
}

/// Entries of one queue and reason become one, at each death anew, and all others turn round.
pub(crate) async fn repeated_entries_become_one(site: Site) {
    let mut peer = site.peer().await;
    let (queue, grave) = (site.name("queue"), site.name("grave"));
    peer.declare(1, &grave, FieldTable::default()).await;
    let arguments = table([
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long(&grave)),
    ]);
    peer.declare(1, &queue, arguments).await;
    let new = format!(
        "count 1, exchange , original-expiration 60000, queue {queue}, reason rejected, \
         routing-keys {queue}"
    );
    let own = queue.as_str();
    let told = |queue: &str, count: i64, mark: i64| {
        format!("count {count}, mark {mark}, queue {queue}, reason rejected")
    };
    let cases = [
        (vec![], vec![new.clone()]),
        // A single one stays as it is, without a count if it has none.
        (
            vec![entry("a", 1, None)],
            vec![new.clone(), "mark 1, queue a, reason rejected".to_owned()],
        ),
        (
            vec![entry("a", 1, None), entry("b", 2, Some(7))],
            vec![new.clone(), told("b", 7, 2), told("a", 1, 1)],
        ),
        (
            vec![
                entry("a", 1, None),
                entry("b", 2, None),
                entry("c", 3, None),
            ],
            vec![
                new.clone(),
                told("c", 1, 3),
                told("b", 1, 2),
                told("a", 1, 1),
            ],
        ),
        (
            vec![
                entry("a", 1, None),
                entry("b", 2, None),
                entry("a", 3, None),
            ],
            vec![new.clone(), told("b", 1, 2), told("a", 2, 1)],
        ),
        // The first is kept, with the count that it has.
        (
            vec![entry("a", 1, Some(3)), entry("a", 2, Some(4))],
            vec![new.clone(), told("a", 3, 1)],
        ),
        (
            vec![entry("a", 1, None), entry("a", 2, Some(4))],
            vec![new.clone(), told("a", 2, 1)],
        ),
        // Its own are counted up; the first without a count begins with one.
        (vec![entry(own, 1, None)], vec![told(own, 1, 1)]),
        (vec![entry(own, 1, Some(5))], vec![told(own, 6, 1)]),
        (
            vec![
                entry(own, 1, None),
                entry("b", 2, None),
                entry(own, 3, None),
            ],
            vec![told(own, 3, 1), told("b", 1, 2)],
        ),
        (
            vec![entry(own, 1, Some(7)), entry(own, 2, Some(2))],
            vec![told(own, 8, 1)],
        ),
    ];
    for (before, after) in cases {
        let headers = table([("x-death", AMQPValue::FieldArray(before.into()))]);
        die(&mut peer, &queue, headers).await;
        peer.until_count(1, &grave, 1).await;
        let dead = peer.get(1, &grave, true).await.unwrap();
        assert_eq!(deaths(&dead), after);
        // There was a history already, so this is not the first death.
        assert_eq!(header(&dead, "x-first-death-queue"), None);
    }
    for (headers, first) in [
        (table([("x-death", long("nonsense"))]), None),
        (FieldTable::default(), Some(queue.clone())),
        (
            table([("x-first-death-queue", long("another"))]),
            Some(queue.clone()),
        ),
    ] {
        die(&mut peer, &queue, headers).await;
        peer.until_count(1, &grave, 1).await;
        let dead = peer.get(1, &grave, true).await.unwrap();
        assert_eq!(deaths(&dead), std::slice::from_ref(&new));
        assert_eq!(header(&dead, "x-first-death-queue"), first);
    }
}

/// The order of the entries as a message goes round, the latest death first.
pub(crate) async fn a_message_that_goes_round_keeps_its_history(site: Site) {
    let mut peer = site.peer().await;
    let names = ["a", "b", "c", "d"];
    let queues: Vec<_> = names.iter().map(|name| site.name(name)).collect();
    for at in 0..queues.len() {
        let next = &queues[(at + 1) % queues.len()];
        let arguments = table([
            ("x-dead-letter-exchange", long("")),
            ("x-dead-letter-routing-key", long(next)),
        ]);
        peer.declare(1, &queues[at], arguments).await;
    }
    peer.publish(1, "", &queues[0], "body").await;
    let mut seen = Vec::new();
    for queue in queues.iter().cycle().take(9) {
        peer.until_count(1, queue, 1).await;
        let got = peer.get(1, queue, false).await.unwrap();
        let short = deaths(&got).into_iter().map(|death| {
            let field = |name: &str| {
                let found = death.split(", ").find_map(|field| field.strip_prefix(name));
                found.unwrap().rsplit(['.', ' ']).next().unwrap().to_owned()
            };
            field("queue ") + &field("count ")
        });
        seen.push(short.collect::<Vec<_>>().join(" "));
        peer.send(1, nack(got.tag, false, false)).await;
    }
    assert_eq!(
        seen,
        [
            "",
            "a1",
            "b1 a1",
            "c1 a1 b1",
            "d1 b1 a1 c1",
            "a2 c1 b1 d1",
            "b2 d1 c1 a2",
            "c2 a2 d1 b2",
            "d2 b2 a2 c2",
        ]
    );
}
