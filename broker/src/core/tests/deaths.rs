//! The history in `x-death`, against a plain log of what happened to a message.

use amq_protocol::{
    protocol::basic,
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;

use super::CoreFixture;
use crate::{
    arguments::{integer, long, text},
    core::{Content, Head},
    properties::Properties,
};

const NAMES: [&str; 3] = ["a", "b", "c"];
const TTL: u64 = 10;

/// Queues in a ring, each the dead letters of the one before.
fn ring(fixture: &mut CoreFixture) -> crate::id::ConnectionId {
    let id = fixture.connect(1);
    fixture.open(id, 1);
    for (at, name) in NAMES.iter().enumerate() {
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), long(""));
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            long(NAMES[(at + 1) % NAMES.len()]),
        );
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(TTL as i32));
        fixture.declare(id, name, false, arguments);
    }
    id
}

/// One line of a history: queue, reason and, unless a publisher left it out, the count.
type Line = (String, String, Option<i64>);

fn recorded(content: &Content) -> Vec<Line> {
    let headers = content.message.properties.headers().unwrap_or_default();
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        return Vec::new();
    };
    deaths
        .as_slice()
        .iter()
        .map(|death| {
            let death = death.as_field_table().unwrap().inner();
            let field = |name: &str| text(&death[name]).unwrap();
            let count = death.get("count").map(|count| integer(count).unwrap());
            (field("queue"), field("reason"), count)
        })
        .collect()
}

/// A history as a publisher writes it.
fn written(lines: &[Line]) -> Properties {
    let mut headers = FieldTable::default();
    if !lines.is_empty() {
        let lines = lines.iter().map(|(queue, reason, count)| {
            let mut line = FieldTable::default();
            line.insert("queue".into(), long(queue));
            line.insert("reason".into(), long(reason));
            if let Some(count) = count {
                line.insert("count".into(), AMQPValue::LongLongInt(*count));
            }
            AMQPValue::FieldTable(line)
        });
        let lines = lines.collect::<Vec<_>>();
        headers.insert("x-death".into(), AMQPValue::FieldArray(lines.into()));
    }
    Properties::default().with_headers(&headers)
}

/// The history after one more death: one line a queue and reason, the new one first, and the
/// others in reverse order as soon as there are two.
fn after(lines: &[Line], queue: &str, reason: &str) -> Vec<Line> {
    let mut summed: Vec<Line> = Vec::new();
    for line in lines {
        let alike = |other: &Line| (&other.0, &other.1) == (&line.0, &line.1);
        if !summed.iter().any(alike) {
            let number = i64::try_from(lines.iter().filter(|other| alike(other)).count()).unwrap();
            let count = line.2.or((lines.len() > 1).then_some(number));
            summed.insert(0, (line.0.clone(), line.1.clone(), count));
        }
    }
    let own = |line: &Line| (line.0.as_str(), line.1.as_str()) == (queue, reason);
    let before = summed.iter().find(|line| own(line)).cloned();
    summed.retain(|line| !own(line));
    let count = before.and_then(|line| line.2).unwrap_or(0) + 1;
    summed.insert(0, (queue.to_owned(), reason.to_owned(), Some(count)));
    summed
}

/// Whether a message that expires its way into `queue` was there before, with no rejection in
/// the history up to there.
fn closes_circle(lines: &[Line], queue: &str) -> bool {
    match lines.iter().position(|line| line.0 == queue) {
        Some(at) => lines[..=at].iter().all(|line| line.1 != "rejected"),
        None => false,
    }
}

fn line() -> impl Strategy<Value = Line> {
    let queue = prop::sample::select(vec!["a", "b", "elsewhere"]);
    let reason = prop::sample::select(vec!["rejected", "expired"]);
    (queue, reason, proptest::option::of(1..5_i64))
        .prop_map(|(queue, reason, count)| (queue.to_owned(), reason.to_owned(), count))
}

proptest! {
    #[test]
    fn history_is_summed_and_circles_are_cut(
        mut lines in proptest::collection::vec(line(), 0..4),
        rejections in proptest::collection::vec(any::<bool>(), 1..25),
    ) {
        let mut fixture = CoreFixture::new();
        let id = ring(&mut fixture);
        fixture.publish(id, NAMES[0], 1, written(&lines));
        let mut place = 0;
        for rejected in rejections {
            let (here, there) = (NAMES[place], NAMES[(place + 1) % NAMES.len()]);
            let dropped = if rejected {
                fixture.get(id, 1, here, false);
                let content = fixture.got().unwrap();
                prop_assert_eq!(recorded(&content), lines.clone());
                let Head::GetOk { tag, .. } = content.head else { panic!() };
                let reject = basic::Reject { delivery_tag: tag, requeue: false };
                fixture.basic(id, 1, basic::AMQPMethod::Reject(reject));
                lines = after(&lines, here, "rejected");
                false
            } else {
                fixture.sleep(TTL);
                lines = after(&lines, here, "expired");
                closes_circle(&lines, there)
            };
            let ready: Vec<_> = fixture.core.queue_infos().into_iter().filter(|q| q.ready > 0).collect();
            if dropped {
                prop_assert!(ready.is_empty(), "{:?} after {:?}", ready, lines);
                return Ok(());
            }
            prop_assert_eq!(ready.len(), 1);
            prop_assert_eq!(ready[0].name.as_str(), there);
            place = (place + 1) % NAMES.len();
        }
    }
}
