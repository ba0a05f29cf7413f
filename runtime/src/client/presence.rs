//! Presence of consumers on the queues that are called: asked of the broker by a passive `queue.declare`, on a channel
//! of its own, at most once a second for each queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::link::{self, Connection, Link, Namespace};
use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::topology::Queue;

/// The time for which a count of consumers is used.
const FRESH: Duration = Duration::from_secs(1);

/// The consumers of the queues that clients of one connection call.
pub(super) struct ConsumerPresence {
    link: Link,
    /// By the names of the queues on the broker.
    queues: Mutex<HashMap<Arc<str>, Arc<QueuePresence>>>,
}

/// The consumers of one queue.
#[derive(Default)]
struct QueuePresence {
    last: Mutex<Option<Count>>,
    /// Held while consumers are counted: calls share one count.
    counting: tokio::sync::Mutex<()>,
}

/// The result of counting consumers.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    /// The time of the first of the last counts in a row that found no consumer.
    absent_since: Option<Instant>,
}

impl Count {
    /// The result of a count after the one before it.
    fn after(before: Option<Self>, has_consumers: bool, at: Instant) -> Self {
        let absent_since = (!has_consumers).then(|| {
            let before = before.and_then(|before| before.absent_since);
            before.unwrap_or(at)
        });
        Self { at, absent_since }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH
    }
}

impl ConsumerPresence {
    pub(super) fn of(connection: &Connection) -> Arc<Self> {
        let link = connection.publishing().clone();
        connection.shared(|| Self {
            link,
            queues: Mutex::default(),
        })
    }

    /// Waits until a queue, given by its name on the broker, has a consumer. `false` if it has had none for as long as
    /// `absence`. If the broker does not tell, the result is `true`: the request is sent as usual.
    ///
    /// Cancel-safe.
    pub(super) async fn until_served(&self, queue: &Arc<str>, absence: Duration) -> bool {
        let presence = Arc::clone(lock(&self.queues).entry(Arc::clone(queue)).or_default());
        loop {
            let Some(count) = self.count(queue, &presence).await else {
                return true;
            };
            let Some(since) = count.absent_since else {
                return true;
            };
            let left = absence.saturating_sub(since.elapsed());
            if left.is_zero() {
                return false;
            }
            tokio::time::sleep(left.min(FRESH)).await;
        }
    }

    /// The last count, or a new one if that is too old. `None` if the broker does not tell.
    async fn count(&self, queue: &str, presence: &QueuePresence) -> Option<Count> {
        let last = || lock(&presence.last).filter(|count| count.is_fresh(Instant::now()));
        if let Some(count) = last() {
            return Some(count);
        }
        let _counting = presence.counting.lock().await;
        // Another call may have counted while this one waited for its turn.
        if let Some(count) = last() {
            return Some(count);
        }
        let has_consumers = match self.has_consumers(queue).await? {
            Ok(has_consumers) => has_consumers,
            // For instance: there is no such queue, and the request is going to be returned.
            Err(error) => {
                tracing::debug!(queue, %error, "cannot count the consumers of a queue, sending the request");
                true
            }
        };
        let mut last = lock(&presence.last);
        let count = Count::after(*last, has_consumers, Instant::now());
        *last = Some(count);
        Some(count)
    }

    /// Asks the broker. `None` if there is no connection now on which it answers; requests wait for one.
    async fn has_consumers(&self, queue: &str) -> Option<Result<bool, Error>> {
        let session = self
            .link
            .ready()
            .filter(|session| session.takes_messages())?;
        let counted = async {
            let queue = Queue::new(Name::parse(queue)?);
            link::count(&session, &queue, &Namespace::default()).await
        };
        match counted.await {
            Err(error) if error.is_disconnected_or_closed() => None,
            counts => Some(counts.map(|counts| counts.consumers > 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_absence_begins_with_the_first_count_without_consumers() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let first = Count::after(None, false, start);
        assert_eq!(first.absent_since, Some(start));
        let second_count = Count::after(Some(first), false, start + second);
        assert_eq!(second_count.absent_since, Some(start));
        let served = Count::after(Some(second_count), true, start + 2 * second);
        assert_eq!(served.absent_since, None);
        let again = Count::after(Some(served), false, start + 3 * second);
        assert_eq!(again.absent_since, Some(start + 3 * second));
        assert!(again.is_fresh(start + 3 * second) && !again.is_fresh(start + 4 * second));
    }
}
