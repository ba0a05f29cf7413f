//! Protocol 1 as it is seen from outside: what a peer in another language reads and may write.

mod ours;
mod theirs;

use lapin::message::Delivery;
use lepus_tests::Env;
use lepus_tests::raw::Raw;

/// The properties of a message, each in a line; the reply queue and the time
/// left, which differ from run to run, are checked and left out.
fn properties(message: &Delivery, reply_queue: &str) -> Vec<String> {
    let p = &message.properties;
    let texts = [
        ("content_type", p.content_type()),
        ("content_encoding", p.content_encoding()),
        ("correlation_id", p.correlation_id()),
        ("message_id", p.message_id()),
        ("type", p.kind()),
        ("user_id", p.user_id()),
        ("app_id", p.app_id()),
        ("cluster_id", p.cluster_id()),
    ];
    let mut lines: Vec<String> = texts
        .iter()
        .filter_map(|(name, text)| text.as_ref().map(|text| format!("{name} {text}")))
        .collect();
    // A request's has a mark that cannot be guessed.
    if p.reply_to().is_some() {
        for line in lines.iter_mut() {
            if let Some((mark, number)) = line
                .strip_prefix("correlation_id ")
                .and_then(|id| id.split_at_checked(11))
            {
                assert!(mark.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                *line = format!("correlation_id {number}");
            }
        }
    }
    lines.extend(
        p.headers()
            .as_ref()
            .map(|headers| format!("headers {headers:?}")),
    );
    lines.extend(
        p.delivery_mode()
            .map(|mode| format!("delivery_mode {mode}")),
    );
    lines.extend(p.priority().map(|priority| format!("priority {priority}")));
    lines.extend(p.timestamp().map(|time| format!("timestamp {time}")));
    if let Some(expiration) = p.expiration() {
        let millis: u64 = expiration.as_str().parse().expect("a number");
        assert!(
            (5_000..=10_000).contains(&millis),
            "the time left: {millis}"
        );
        lines.push("expiration".into());
    }
    if let Some(queue) = p.reply_to() {
        let id = queue.as_str().strip_prefix(&format!("{reply_queue}."));
        let id = id.unwrap_or_else(|| panic!("{queue} is not {reply_queue}.…"));
        assert!(
            id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{queue}"
        );
        lines.push("reply_to".into());
    }
    lines
}

/// Deliveries of the service's queue to a consumer by hand.
async fn requests(env: &Env) -> (Raw, lapin::Consumer) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    raw.declare(&queue).await;
    let consumer = raw.consume(&queue, 100).await;
    (raw, consumer)
}
