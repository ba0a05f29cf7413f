//! The history in `x-death`, against a plain log of what happened to a message.

use amq_protocol::{
    protocol::basic,
    types::{AMQPValue, FieldTable},
};
use proptest::prelude::*;

use super::Lab;
use crate::{
    arguments::{integer, long, text},
    core::{Content, Head},
    properties::Properties,
};

const NAMES: [&str; 3] = ["a", "b", "c"];
const TTL: u64 = 10;

/// Queues in a ring, each the dead letters of the one before.
fn ring(lab: &mut Lab) -> crate::id::ConnectionId {
    let id = lab.connect(1);
    lab.open(id, 1);
    for (at, name) in NAMES.iter().enumerate() {
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), long(""));
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            long(NAMES[(at + 1) % NAMES.len()]),
        );
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(TTL as i32));
        lab.declare(id, name, false, arguments);
    }
    id
}

fn recorded(content: &Content) -> Vec<(String, String, i64)> {
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
            (
                field("queue"),
                field("reason"),
                integer(&death["count"]).unwrap(),
            )
        })
        .collect()
}

/// What the log amounts to: one line a queue and reason, the latest first.
fn summed(log: &[(&str, &str)]) -> Vec<(String, String, i64)> {
    let mut lines: Vec<(String, String, i64)> = Vec::new();
    for event in log.iter().rev() {
        if !lines
            .iter()
            .any(|line| (line.0.as_str(), line.1.as_str()) == *event)
        {
            let count = log.iter().filter(|other| *other == event).count();
            lines.push((
                event.0.to_owned(),
                event.1.to_owned(),
                i64::try_from(count).unwrap(),
            ));
        }
    }
    lines
}

/// Whether a message that expires its way into `queue` was there before and has not
/// been rejected since.
fn closes_circle(log: &[(&str, &str)], queue: &str) -> bool {
    match log.iter().rposition(|event| event.0 == queue) {
        Some(at) => log[at..].iter().all(|event| event.1 != "rejected"),
        None => false,
    }
}

proptest! {
    #[test]
    fn history_is_summed_and_circles_are_cut(rejections in proptest::collection::vec(any::<bool>(), 1..25)) {
        let mut lab = Lab::new();
        let id = ring(&mut lab);
        lab.publish(id, NAMES[0], 1, Properties::default());
        let mut log: Vec<(&str, &str)> = Vec::new();
        let mut place = 0;
        for rejected in rejections {
            let (here, there) = (NAMES[place], NAMES[(place + 1) % NAMES.len()]);
            let dropped = if rejected {
                lab.get(id, 1, here, false);
                let content = lab.got().unwrap();
                prop_assert_eq!(recorded(&content), summed(&log));
                let Head::GetOk { tag, .. } = content.head else { panic!() };
                let reject = basic::Reject { delivery_tag: tag, requeue: false };
                lab.basic(id, 1, basic::AMQPMethod::Reject(reject));
                log.push((here, "rejected"));
                false
            } else {
                lab.sleep(TTL);
                log.push((here, "expired"));
                closes_circle(&log, there)
            };
            let ready: Vec<_> = lab.core.queue_infos().into_iter().filter(|q| q.ready > 0).collect();
            if dropped {
                prop_assert!(ready.is_empty(), "{:?} after {:?}", ready, log);
                return Ok(());
            }
            prop_assert_eq!(ready.len(), 1);
            prop_assert_eq!(ready[0].name.as_str(), there);
            place = (place + 1) % NAMES.len();
        }
    }
}
