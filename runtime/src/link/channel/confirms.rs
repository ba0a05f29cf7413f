//! Publishes that the broker confirms, each told its own outcome.
//!
//! A publish is numbered as it is appended to the write buffer, which is the order in which the
//! broker counts; its confirm is told to the publisher on the I/O task. A message that no queue took
//! comes back before it is confirmed (RabbitMQ's publisher confirms).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::Channel;
use super::{ChannelEvent, ChannelHandler};
use crate::error::{Error, Kind};
use crate::link::frame::decode::Confirm;
use crate::link::session::Session;
use crate::link::socket::BurstDetector;
use crate::sync::lock;
use crate::wire::message::Outgoing;

/// What the broker did with a message.
#[derive(Clone, Debug)]
pub(crate) enum Confirmation {
    /// It is safe with the broker.
    Stored,
    /// No queue took it.
    Unroutable,
    /// The broker refused it (`basic.nack`).
    Rejected,
    /// The connection went before the confirm came, or the broker closed the channel.
    Unknown(Error),
}

/// How long a route is refused on one channel before another one is tried.
///
/// A channel that first publishes to a quorum queue while its leader is gone asks the node that
/// led, and refuses everything until that node is back; a new channel knows the new leader (seen
/// on RabbitMQ 3.10, three nodes). A queue that is full does not mind.
const REFUSED: Duration = Duration::from_secs(1);

/// A channel with so many publishes without a confirm is given up: the broker owes it too much. A
/// publisher bounds how many it waits for, but a broker that never confirms leaves those behind that
/// have timed out.
const MOST_UNCONFIRMED: usize = 65_536;

/// A channel in confirm mode.
pub(crate) struct ConfirmChannel {
    channel: Arc<Channel>,
    ledger: Arc<Ledger>,
    rush: BurstDetector,
}

impl ConfirmChannel {
    /// Opens a channel and puts it in confirm mode.
    pub(crate) async fn open(session: &Arc<Session>, tasks: &Handle) -> Result<Self, Error> {
        let ledger = Arc::new(Ledger::default());
        let channel = Channel::open(session).await?;
        channel.set_handler(Arc::clone(&ledger) as _);
        channel.select_confirms()?;
        tasks.spawn(keep(Arc::clone(&channel), Arc::clone(&ledger)));
        Ok(Self {
            channel,
            ledger,
            rush: BurstDetector::default(),
        })
    }

    /// Whether it is there, and worth publishing on.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.is_open() && self.ledger.pages().is_worth_it()
    }

    /// Whether a message may be handed over now.
    pub(crate) fn takes_messages(&self) -> bool {
        self.channel.session().takes_messages()
    }

    /// Hands a message over and gives the promise of its fate. The message has a `message_id`;
    /// two in flight with the same one and the same route share what the broker says of either.
    ///
    /// Dropping the promise does not unsend the message.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(
        &self,
        message: Arc<Outgoing>,
    ) -> Result<oneshot::Receiver<Confirmation>, Error> {
        let (fate, promise) = oneshot::channel();
        let entry = Entry {
            message: Arc::downgrade(&message),
            fate,
        };
        let ledger = &self.ledger;
        // In the order of the messages: the broker counts them.
        let note = || ledger.add(entry);
        self.channel
            .publish_noted(&message, self.rush.next(), note)?;
        Ok(promise)
    }
}

impl Drop for ConfirmChannel {
    fn drop(&mut self) {
        // What is under way is still heard of.
        self.ledger.pages().is_left = true;
        self.ledger.news.notify_one();
    }
}

impl fmt::Debug for ConfirmChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfirmChannel")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// Keeps the channel for as long as there is something to hear on it.
async fn keep(channel: Arc<Channel>, ledger: Arc<Ledger>) {
    let working = async {
        while !ledger.pages().is_done() {
            ledger.news.notified().await;
        }
    };
    tokio::select! {
        biased;
        () = working => {}
        reason = channel.down() => ledger.end(&reason),
    }
}

/// The publishes on a channel that are not confirmed.
#[derive(Default)]
struct Ledger {
    pages: Mutex<Pages>,
    /// There is something for the keeper to look at.
    news: Notify,
}

/// Who publishes, and what.
struct Entry {
    /// Not kept by this: a publisher that has gone does not ask for its fate.
    message: Weak<Outgoing>,
    fate: oneshot::Sender<Confirmation>,
}

/// A returned message: its `message_id` and its routing key.
type Key = (String, String);

#[derive(Default)]
struct Pages {
    /// How many were published.
    count: u64,
    /// By their numbers, of which the first is 1.
    entries: BTreeMap<u64, Entry>,
    returned: HashMap<Key, usize>,
    refused: Refused,
    /// There are no publishers any more.
    is_left: bool,
    /// No confirm will come any more.
    is_ended: bool,
}

/// Outcomes, to be told when nothing is locked.
struct Told(Vec<(oneshot::Sender<Confirmation>, Confirmation)>);

impl Told {
    fn tell(self) {
        for (publisher, fate) in self.0 {
            // A publisher that does not wait for its fate does not hear of it.
            let _ = publisher.send(fate);
        }
    }
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        lock(&self.pages)
    }

    fn add(&self, entry: Entry) -> Result<(), Error> {
        let mut pages = self.pages();
        if pages.is_ended {
            return Err(Error::new(Kind::Disconnected).caused_by("the channel was closed"));
        }
        pages.count += 1;
        let number = pages.count;
        pages.entries.insert(number, entry);
        Ok(())
    }

    fn end(&self, reason: &Error) {
        let mut pages = self.pages();
        pages.is_ended = true;
        let left = std::mem::take(&mut pages.entries).into_values();
        drop(pages);
        let unknown = || Confirmation::Unknown(reason.clone());
        Told(left.map(|entry| (entry.fate, unknown())).collect()).tell();
        self.news.notify_one();
    }
}

impl ChannelHandler for Ledger {
    fn on_event(&self, word: ChannelEvent) {
        match word {
            ChannelEvent::Confirmed(confirm) => {
                let mut pages = self.pages();
                let told = pages.confirm(confirm);
                let is_done = pages.is_done();
                drop(pages);
                told.tell();
                if is_done {
                    self.news.notify_one();
                }
            }
            ChannelEvent::Returned(message) => {
                let id = message.properties.message_id.unwrap_or_default();
                let mut pages = self.pages();
                *pages.returned.entry((id, message.routing_key)).or_default() += 1;
            }
            ChannelEvent::Closed(reason) => self.end(&reason),
            ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {}
        }
    }
}

impl Pages {
    fn is_worth_it(&self) -> bool {
        !self.is_ended && !self.refused.is_for_long && !self.owes_too_much()
    }

    fn is_done(&self) -> bool {
        self.is_left && (self.entries.is_empty() || self.owes_too_much())
    }

    fn owes_too_much(&self) -> bool {
        self.entries.len() >= MOST_UNCONFIRMED
    }

    fn confirm(&mut self, confirm: Confirm) -> Told {
        let Confirm {
            tag,
            multiple,
            is_stored,
        } = confirm;
        let confirmed: Vec<_> = match (tag, multiple) {
            (0, _) => std::mem::take(&mut self.entries).into_values().collect(),
            (_, true) => {
                let later = self.entries.split_off(&tag.saturating_add(1));
                let confirmed = std::mem::replace(&mut self.entries, later);
                confirmed.into_values().collect()
            }
            // Mostly, and so without a map of one.
            (_, false) => self.entries.remove(&tag).into_iter().collect(),
        };
        let confirmed = confirmed.into_iter().filter_map(|entry| {
            let message = entry.message.upgrade()?;
            Some((entry.fate, self.fate_of(&message, is_stored)))
        });
        let told = Told(confirmed.collect());
        // Those that are left belong to publishers that have gone.
        if self.entries.is_empty() {
            self.returned.clear();
        }
        told
    }

    fn fate_of(&mut self, message: &Outgoing, is_stored: bool) -> Confirmation {
        if self.take_returned(message) {
            Confirmation::Unroutable
        } else if is_stored {
            self.refused.forget(&message.routing_key);
            Confirmation::Stored
        } else {
            self.refused.note(&message.routing_key);
            Confirmation::Rejected
        }
    }

    fn take_returned(&mut self, message: &Outgoing) -> bool {
        // Mostly there are none.
        if self.returned.is_empty() {
            return false;
        }
        let id = message.properties.message_id.clone().unwrap_or_default();
        let key = (id, message.routing_key.clone());
        let Some(count) = self.returned.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&key);
        }
        true
    }
}

/// Routes that have been refused, and nothing else.
#[derive(Default)]
struct Refused {
    routes: HashSet<String>,
    /// Since when there are any.
    since: Option<Instant>,
    is_for_long: bool,
}

impl Refused {
    fn note(&mut self, route: &str) {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.is_for_long |= since.elapsed() >= REFUSED;
        if !self.routes.contains(route) {
            self.routes.insert(route.to_owned());
        }
    }

    fn forget(&mut self, route: &str) {
        // Mostly there are none.
        if !self.routes.is_empty() && self.routes.remove(route) && self.routes.is_empty() {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::channel::Returned;
    use crate::wire::message::Properties;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A publisher that waits holds its message.
    type Promise = (oneshot::Receiver<Confirmation>, Arc<Outgoing>);

    fn properties(id: usize) -> Properties {
        Properties {
            message_id: Some(id.to_string()),
            ..Properties::default()
        }
    }

    fn add(ledger: &Ledger, id: usize, route: &str) -> Result<Promise, Error> {
        let message = Outgoing {
            exchange: String::new(),
            routing_key: route.into(),
            mandatory: true,
            properties: properties(id),
            body: Bytes::new(),
        };
        let (fate, promise) = oneshot::channel();
        let held = Arc::new(message);
        let message = Arc::downgrade(&held);
        ledger
            .add(Entry { message, fate })
            .map(|()| (promise, held))
    }

    fn added(ledger: &Ledger, count: usize) -> Vec<Promise> {
        (1..=count)
            .map(|id| add(ledger, id, "jobs").unwrap())
            .collect()
    }

    fn confirmed(ledger: &Ledger, tag: u64, multiple: bool, is_stored: bool) {
        ledger.on_event(ChannelEvent::Confirmed(Confirm {
            tag,
            multiple,
            is_stored,
        }));
    }

    fn returned(ledger: &Ledger, id: usize, route: &str) {
        ledger.on_event(ChannelEvent::Returned(Box::new(Returned {
            text: "NO_ROUTE".into(),
            routing_key: route.into(),
            properties: properties(id),
        })));
    }

    /// A letter for each: what it was told, or that it waits.
    fn told(promises: &mut [Promise]) -> String {
        let told = promises
            .iter_mut()
            .map(|(promise, _)| match promise.try_recv() {
                Ok(Confirmation::Stored) => 's',
                Ok(Confirmation::Unroutable) => 'u',
                Ok(Confirmation::Rejected) => 'r',
                Ok(Confirmation::Unknown(_)) => '?',
                Err(oneshot::error::TryRecvError::Empty) => '.',
                Err(oneshot::error::TryRecvError::Closed) => '-',
            });
        told.collect()
    }

    #[test]
    fn confirms_come_in_any_order_one_by_one_or_for_several() {
        let ledger = Ledger::default();
        let mut promises = added(&ledger, 8);
        confirmed(&ledger, 3, false, true);
        assert_eq!(told(&mut promises), "..s.....");
        confirmed(&ledger, 4, true, true);
        assert_eq!(told(&mut promises), "ss-s....");
        // What is confirmed already is no news, and neither is what was never published.
        confirmed(&ledger, 2, true, false);
        confirmed(&ledger, 3, false, false);
        confirmed(&ledger, 99, false, true);
        assert_eq!(told(&mut promises), "----....");
        confirmed(&ledger, 6, true, false);
        assert_eq!(told(&mut promises), "----rr..");
        confirmed(&ledger, 0, true, true);
        assert_eq!(told(&mut promises), "------ss");
        assert!(ledger.pages().entries.is_empty());
        let mut more = [add(&ledger, 9, "jobs").unwrap()];
        confirmed(&ledger, 9, false, true);
        assert_eq!(told(&mut more), "s");
        let mut last = [10, 11].map(|id| add(&ledger, id, "jobs").unwrap());
        confirmed(&ledger, u64::MAX, true, true);
        assert_eq!(told(&mut last), "ss");
    }

    #[test]
    fn what_came_back_is_unroutable_and_nothing_else_is() {
        let ledger = Ledger::default();
        let mut promises = added(&ledger, 3);
        // The same message went by another route.
        promises.push(add(&ledger, 2, "others").unwrap());
        returned(&ledger, 2, "jobs");
        assert_eq!(told(&mut promises), "....");
        confirmed(&ledger, 4, true, true);
        assert_eq!(told(&mut promises), "suss");
        assert!(ledger.pages().returned.is_empty());
    }

    #[test]
    fn publishers_that_have_gone_leave_nothing_behind() {
        let ledger = Ledger::default();
        let promises = added(&ledger, 3);
        returned(&ledger, 2, "jobs");
        drop(promises);
        confirmed(&ledger, 3, true, true);
        assert!(ledger.pages().returned.is_empty());
        // A broker that never confirms is given up in the end, whoever still waits.
        let mut last = added(&ledger, MOST_UNCONFIRMED).split_off(MOST_UNCONFIRMED - 1);
        assert!(!ledger.pages().is_worth_it());
        assert_eq!(told(&mut last), ".");
        ledger.pages().is_left = true;
        assert!(ledger.pages().is_done());
    }

    #[test]
    fn the_end_is_told_to_all_that_wait_and_nothing_comes_after_it() {
        let ledger = Ledger::default();
        let mut promises = added(&ledger, 3);
        confirmed(&ledger, 2, false, true);
        assert!(ledger.pages().is_worth_it());
        let reason = || Error::new(Kind::Disconnected);
        ledger.on_event(ChannelEvent::Closed(reason()));
        ledger.end(&reason());
        assert_eq!(told(&mut promises), "?s?");
        assert!(!ledger.pages().is_worth_it());
        let refused = add(&ledger, 4, "jobs").unwrap_err();
        assert!(refused.is_disconnected(), "{refused}");
        confirmed(&ledger, 4, true, true);
    }

    #[test]
    fn the_end_is_news_to_the_keeper() {
        let ledger = Ledger::default();
        let _promises = added(&ledger, 1);
        ledger.pages().is_left = true;
        ledger.on_event(ChannelEvent::Closed(Error::new(Kind::Disconnected)));
        assert!(ledger.news.notified().now_or_never().is_some());
        assert!(ledger.pages().is_done());
    }

    #[test]
    fn what_is_refused_for_long_is_not_worth_it_whatever_its_routes() {
        let ledger = Ledger::default();
        let refuse = |id: usize| {
            let promise = add(&ledger, id, &id.to_string()).unwrap();
            confirmed(&ledger, id as u64, false, false);
            assert_eq!(told(&mut [promise]), "r");
        };
        (1..=3).for_each(refuse);
        assert!(ledger.pages().is_worth_it());
        ledger.pages().refused.since = Instant::now().checked_sub(REFUSED);
        refuse(4);
        assert!(!ledger.pages().is_worth_it());
    }

    #[test]
    fn what_is_taken_again_is_refused_no_longer() {
        let ledger = Ledger::default();
        let mut promises = added(&ledger, 3);
        confirmed(&ledger, 1, false, false);
        ledger.pages().refused.since = Instant::now().checked_sub(REFUSED);
        confirmed(&ledger, 2, false, true);
        confirmed(&ledger, 3, false, false);
        assert_eq!(told(&mut promises), "rsr");
        assert!(ledger.pages().is_worth_it());
    }

    #[test]
    fn it_is_done_when_nobody_publishes_and_all_is_confirmed() {
        let ledger = Ledger::default();
        let promises = added(&ledger, 2);
        ledger.pages().is_left = true;
        confirmed(&ledger, 2, false, true);
        assert!(!ledger.pages().is_done());
        drop(promises);
        confirmed(&ledger, 1, false, true);
        assert!(ledger.pages().is_done());
    }

    proptest! {
        /// As the broker may: in any order, alone or together, with some that came back before.
        #[test]
        fn each_is_told_its_own_fate_once(
            fates in prop::collection::vec(0_u8..3, 1..40),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..60),
        ) {
            let ledger = Ledger::default();
            let mut promises = added(&ledger, fates.len());
            let mut open: BTreeMap<usize, u8> = (1..).zip(fates.iter().copied()).collect();
            for (id, _) in open.iter().filter(|(_, fate)| **fate == 1) {
                returned(&ledger, *id, "jobs");
            }
            let mut expected = vec!['.'; fates.len()];
            let mut confirm = |open: &mut BTreeMap<usize, u8>, id: usize, multiple: bool| {
                let is_stored = open[&id] < 2;
                // A confirm for several is for those of the same fate.
                let same = |fate: u8| (fate < 2) == is_stored;
                let multiple = multiple && open.range(..=id).all(|(_, fate)| same(*fate));
                let from = if multiple { 1 } else { id };
                for id in from..=id {
                    if let Some(fate) = open.remove(&id) {
                        expected[id - 1] = ['s', 'u', 'r'][usize::from(fate)];
                    }
                }
                confirmed(&ledger, id as u64, multiple, is_stored);
            };
            for (index, multiple) in order {
                if open.is_empty() {
                    break;
                }
                let ids: Vec<_> = open.keys().copied().collect();
                confirm(&mut open, *index.get(&ids), multiple);
            }
            prop_assert_eq!(told(&mut promises), expected.into_iter().collect::<String>());
        }
    }
}
