//! Publisher confirms (`confirm.select`, `basic.ack`, `basic.nack`, `basic.return`): completes each
//! publish with its own outcome.
//!
//! The broker numbers the publishes of a channel from 1, in the order in which it reads them. So a
//! publish gets its number under the lock of the write buffer, in the same critical section that
//! appends its frames; a number given before or after that could differ from the broker's.
//!
//! RabbitMQ sends `basic.return` before the confirm of the same message, so a return only has to be
//! remembered until the confirm arrives. A return carries no number. It is matched by the message's
//! `message_id` and routing key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::Channel;
use crate::error::{Error, ErrorKind};
use crate::link::frame::decode::Confirm;
use crate::link::session::Session;
use crate::link::socket::BurstDetector;
use crate::link::socket::channels::{ChannelEvent, ChannelHandler};
use crate::sync::lock;
use crate::wire::message::Outgoing;

/// The outcome of a confirmed publish.
#[derive(Clone, Debug)]
pub(crate) enum Confirmation {
    /// The broker has taken responsibility for the message (`basic.ack`).
    Stored,
    /// The message was mandatory and matched no queue (`basic.return`, then `basic.ack`).
    Unroutable,
    /// The broker could not take the message (`basic.nack`).
    Rejected,
    /// The connection or the channel was closed before the confirm arrived, so the message may or may
    /// not have been stored.
    Unknown(Error),
}

/// After how long without an ack between nacks a channel is replaced by a new one.
///
/// A channel whose first publish to a quorum queue comes while the queue has no leader keeps asking
/// the node of the former leader and nacks every publish until that node is back. A new channel finds
/// the new leader (observed on RabbitMQ 3.10 with three nodes). A queue that nacks because it is full
/// does so on any channel, and changing the channel does no harm.
const NACK_TOLERANCE: Duration = Duration::from_secs(1);

/// A channel with this many unconfirmed publishes is given up.
///
/// Publishers bound how many confirms they wait for. A broker that never confirms, though, leaves an
/// entry behind for every publish that has timed out, and these must not grow without limit.
const MAX_UNCONFIRMED: usize = 65_536;

/// A channel in confirm mode, for publishing only.
pub(crate) struct ConfirmChannel {
    channel: Arc<Channel>,
    tracker: Arc<ConfirmTracker>,
    bursts: BurstDetector,
}

impl ConfirmChannel {
    /// Opens a channel and puts it into confirm mode.
    ///
    /// # Errors
    /// The session is down or has no free channel number.
    pub(crate) async fn open(session: &Arc<Session>, tasks: &Handle) -> Result<Self, Error> {
        let tracker = Arc::new(ConfirmTracker::default());
        let channel = Channel::open(session).await?;
        channel.set_handler(Arc::clone(&tracker) as _);
        channel.select_confirms()?;
        tasks.spawn(hold_until_done(Arc::clone(&channel), Arc::clone(&tracker)));
        Ok(Self {
            channel,
            tracker,
            bursts: BurstDetector::default(),
        })
    }

    /// Whether the channel is open and should be used for further publishes.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.is_open() && self.tracker.state().is_usable()
    }

    /// Whether a message may be published now (see [`Session::takes_messages`]).
    pub(crate) fn takes_messages(&self) -> bool {
        self.channel.session().takes_messages()
    }

    /// Publishes a message and returns the receiver of its confirmation.
    ///
    /// The message needs a `message_id`. If two messages in flight have the same `message_id` and the
    /// same routing key, a return of one of them may be attributed to the other.
    ///
    /// Dropping the receiver does not take the message back.
    ///
    /// # Errors
    /// The message was not sent: it cannot be encoded, or the channel is closed.
    pub(crate) fn publish(
        &self,
        message: Arc<Outgoing>,
    ) -> Result<oneshot::Receiver<Confirmation>, Error> {
        let (confirmation, receiver) = oneshot::channel();
        let publish = PendingPublish {
            message: Arc::downgrade(&message),
            confirmation,
        };
        let tracker = &self.tracker;
        // Runs under the lock of the write buffer: see the head of this file.
        let record = || tracker.add(publish);
        self.channel
            .publish_recorded(&message, self.bursts.next(), record)?;
        Ok(receiver)
    }
}

impl Drop for ConfirmChannel {
    fn drop(&mut self) {
        // The task below keeps the channel open until the publishes in flight are confirmed.
        self.tracker.state().publisher_dropped = true;
        self.tracker.changed.notify_one();
    }
}

impl fmt::Debug for ConfirmChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfirmChannel")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// Keeps the channel open until its publisher is dropped and all its publishes are confirmed.
///
/// Dropping a [`Channel`] closes it, and the confirms of publishes in flight would be lost with it.
async fn hold_until_done(channel: Arc<Channel>, tracker: Arc<ConfirmTracker>) {
    let working = async {
        while !tracker.state().is_done() {
            tracker.changed.notified().await;
        }
    };
    tokio::select! {
        biased;
        () = working => {}
        reason = channel.down() => tracker.close(&reason),
    }
}

/// Receives the confirms and the returns of one channel.
///
/// Its lock is taken under the locks of the write buffer and of the channel's core ([`add`](Self::add)),
/// so no other lock may be taken while it is held.
#[derive(Default)]
struct ConfirmTracker {
    state: Mutex<ConfirmState>,
    /// Wakes [`hold_until_done`] when [`ConfirmState::is_done`] may have become true.
    changed: Notify,
}

/// One publish whose confirm has not arrived.
struct PendingPublish {
    /// Weak, because a publisher that timed out has dropped its message and needs no confirmation: the
    /// body must not stay in memory until a confirm arrives.
    message: Weak<Outgoing>,
    confirmation: oneshot::Sender<Confirmation>,
}

/// The `message_id` and the routing key of a returned message.
type ReturnKey = (String, String);

#[derive(Default)]
struct ConfirmState {
    /// The number of the last publish. The first one has number 1.
    last_number: u64,
    unconfirmed: BTreeMap<u64, PendingPublish>,
    /// Messages that were returned and are not confirmed yet, with how often they were returned.
    returned: HashMap<ReturnKey, usize>,
    nacks: NackTracker,
    /// The [`ConfirmChannel`] was dropped: nothing more is published.
    publisher_dropped: bool,
    /// The channel is closed: no confirm will arrive.
    is_closed: bool,
}

/// Outcomes to be sent to their publishers once the lock is released: a woken publisher may publish
/// again, which takes the same lock.
struct Completions(Vec<(oneshot::Sender<Confirmation>, Confirmation)>);

impl Completions {
    fn send(self) {
        for (publisher, confirmation) in self.0 {
            // The publisher may have timed out.
            let _ = publisher.send(confirmation);
        }
    }
}

impl ConfirmTracker {
    fn state(&self) -> MutexGuard<'_, ConfirmState> {
        lock(&self.state)
    }

    /// Gives a publish its number.
    ///
    /// # Errors
    /// The channel is closed, so no confirm would arrive.
    fn add(&self, publish: PendingPublish) -> Result<(), Error> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Error::new(ErrorKind::Disconnected).caused_by("the channel was closed"));
        }
        state.last_number += 1;
        let number = state.last_number;
        state.unconfirmed.insert(number, publish);
        Ok(())
    }

    /// Completes all publishes in flight as unknown. Later ones fail.
    fn close(&self, reason: &Error) {
        let mut state = self.state();
        state.is_closed = true;
        let unconfirmed = std::mem::take(&mut state.unconfirmed).into_values();
        drop(state);
        let unknown = |publish: PendingPublish| {
            let confirmation = Confirmation::Unknown(reason.clone());
            (publish.confirmation, confirmation)
        };
        Completions(unconfirmed.map(unknown).collect()).send();
        self.changed.notify_one();
    }
}

impl ChannelHandler for ConfirmTracker {
    fn on_event(&self, event: ChannelEvent) {
        match event {
            ChannelEvent::Confirmed(confirm) => {
                let mut state = self.state();
                let completions = state.confirm(confirm);
                let is_done = state.is_done();
                drop(state);
                completions.send();
                if is_done {
                    self.changed.notify_one();
                }
            }
            ChannelEvent::Returned(message) => {
                let id = message.properties.message_id.unwrap_or_default();
                let mut state = self.state();
                *state.returned.entry((id, message.routing_key)).or_default() += 1;
            }
            ChannelEvent::Closed(reason) => self.close(&reason),
            ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {}
        }
    }
}

impl ConfirmState {
    /// Whether to publish more messages on this channel.
    fn is_usable(&self) -> bool {
        !self.is_closed && !self.nacks.is_persistent && !self.has_too_many()
    }

    /// Whether the channel may be closed.
    fn is_done(&self) -> bool {
        self.publisher_dropped && (self.unconfirmed.is_empty() || self.has_too_many())
    }

    fn has_too_many(&self) -> bool {
        self.unconfirmed.len() >= MAX_UNCONFIRMED
    }

    /// Removes the publishes that a `basic.ack` or `basic.nack` is about. Numbers that are unknown, or
    /// were confirmed before, are ignored.
    fn confirm(&mut self, confirm: Confirm) -> Completions {
        let Confirm {
            tag,
            multiple,
            is_ack,
        } = confirm;
        let confirmed: Vec<_> = match (tag, multiple) {
            // Delivery tag 0 means all outstanding messages (AMQP 0-9-1, `basic.ack`).
            (0, _) => std::mem::take(&mut self.unconfirmed)
                .into_values()
                .collect(),
            (_, true) => {
                let later = self.unconfirmed.split_off(&tag.saturating_add(1));
                let confirmed = std::mem::replace(&mut self.unconfirmed, later);
                confirmed.into_values().collect()
            }
            // The common case: splitting the map would allocate.
            (_, false) => self.unconfirmed.remove(&tag).into_iter().collect(),
        };
        let confirmed = confirmed.into_iter().filter_map(|publish| {
            let message = publish.message.upgrade()?;
            Some((publish.confirmation, self.outcome_of(&message, is_ack)))
        });
        let completions = Completions(confirmed.collect());
        // The returns that are left belong to publishers that have timed out.
        if self.unconfirmed.is_empty() {
            self.returned.clear();
        }
        completions
    }

    /// The outcome of one confirmed message. A message that was returned is acked as well.
    fn outcome_of(&mut self, message: &Outgoing, is_ack: bool) -> Confirmation {
        if self.take_returned(message) {
            Confirmation::Unroutable
        } else if is_ack {
            self.nacks.acked(&message.routing_key);
            Confirmation::Stored
        } else {
            self.nacks.nacked(&message.routing_key);
            Confirmation::Rejected
        }
    }

    fn take_returned(&mut self, message: &Outgoing) -> bool {
        // Returns are rare, and the key below allocates.
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

/// Decides when nacks are the channel's fault (see [`NACK_TOLERANCE`]).
#[derive(Default)]
struct NackTracker {
    /// Routing keys whose last confirm was a nack.
    routes: HashSet<String>,
    /// When the first of `routes` was nacked; `None` while there are none.
    since: Option<Instant>,
    /// The tolerance was exceeded: the channel is to be replaced.
    is_persistent: bool,
}

impl NackTracker {
    fn nacked(&mut self, route: &str) {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.is_persistent |= since.elapsed() >= NACK_TOLERANCE;
        if !self.routes.contains(route) {
            self.routes.insert(route.to_owned());
        }
    }

    fn acked(&mut self, route: &str) {
        // Called for every ack: the check is cheaper than hashing the routing key.
        if !self.routes.is_empty() && self.routes.remove(route) && self.routes.is_empty() {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::socket::channels::Returned;
    use crate::wire::message::Properties;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A waiting publisher: it holds its message, of which the tracker has a weak reference only.
    type TestPublish = (oneshot::Receiver<Confirmation>, Arc<Outgoing>);

    fn properties(id: usize) -> Properties {
        Properties {
            message_id: Some(id.to_string()),
            ..Properties::default()
        }
    }

    fn add(tracker: &ConfirmTracker, id: usize, route: &str) -> Result<TestPublish, Error> {
        let message = Outgoing {
            exchange: String::new(),
            routing_key: route.into(),
            mandatory: true,
            properties: properties(id),
            body: Bytes::new(),
        };
        let (confirmation, receiver) = oneshot::channel();
        let held = Arc::new(message);
        let message = Arc::downgrade(&held);
        tracker
            .add(PendingPublish {
                message,
                confirmation,
            })
            .map(|()| (receiver, held))
    }

    fn added(tracker: &ConfirmTracker, count: usize) -> Vec<TestPublish> {
        (1..=count)
            .map(|id| add(tracker, id, "jobs").unwrap())
            .collect()
    }

    fn confirmed(tracker: &ConfirmTracker, tag: u64, multiple: bool, is_ack: bool) {
        tracker.on_event(ChannelEvent::Confirmed(Confirm {
            tag,
            multiple,
            is_ack,
        }));
    }

    fn returned(tracker: &ConfirmTracker, id: usize, route: &str) {
        tracker.on_event(ChannelEvent::Returned(Box::new(Returned {
            text: "NO_ROUTE".into(),
            routing_key: route.into(),
            properties: properties(id),
        })));
    }

    /// One letter a publish: `s`tored, `u`nroutable, `r`ejected, `?` for unknown, `.` while it waits,
    /// `-` once its outcome was read.
    fn outcomes(publishes: &mut [TestPublish]) -> String {
        let outcomes = publishes
            .iter_mut()
            .map(|(receiver, _)| match receiver.try_recv() {
                Ok(Confirmation::Stored) => 's',
                Ok(Confirmation::Unroutable) => 'u',
                Ok(Confirmation::Rejected) => 'r',
                Ok(Confirmation::Unknown(_)) => '?',
                Err(oneshot::error::TryRecvError::Empty) => '.',
                Err(oneshot::error::TryRecvError::Closed) => '-',
            });
        outcomes.collect()
    }

    #[test]
    fn confirms_come_in_any_order_single_or_multiple() {
        let tracker = ConfirmTracker::default();
        let mut publishes = added(&tracker, 8);
        confirmed(&tracker, 3, false, true);
        assert_eq!(outcomes(&mut publishes), "..s.....");
        confirmed(&tracker, 4, true, true);
        assert_eq!(outcomes(&mut publishes), "ss-s....");
        // Numbers that were confirmed before, and numbers that were never published, are ignored.
        confirmed(&tracker, 2, true, false);
        confirmed(&tracker, 3, false, false);
        confirmed(&tracker, 99, false, true);
        assert_eq!(outcomes(&mut publishes), "----....");
        confirmed(&tracker, 6, true, false);
        assert_eq!(outcomes(&mut publishes), "----rr..");
        confirmed(&tracker, 0, true, true);
        assert_eq!(outcomes(&mut publishes), "------ss");
        assert!(tracker.state().unconfirmed.is_empty());
        let mut more = [add(&tracker, 9, "jobs").unwrap()];
        confirmed(&tracker, 9, false, true);
        assert_eq!(outcomes(&mut more), "s");
        let mut last = [10, 11].map(|id| add(&tracker, id, "jobs").unwrap());
        confirmed(&tracker, u64::MAX, true, true);
        assert_eq!(outcomes(&mut last), "ss");
    }

    #[test]
    fn only_returned_messages_are_unroutable() {
        let tracker = ConfirmTracker::default();
        let mut publishes = added(&tracker, 3);
        // The same message id with another routing key.
        publishes.push(add(&tracker, 2, "others").unwrap());
        returned(&tracker, 2, "jobs");
        assert_eq!(outcomes(&mut publishes), "....");
        confirmed(&tracker, 4, true, true);
        assert_eq!(outcomes(&mut publishes), "suss");
        assert!(tracker.state().returned.is_empty());
    }

    #[test]
    fn publishers_that_timed_out_leave_nothing_behind() {
        let tracker = ConfirmTracker::default();
        let publishes = added(&tracker, 3);
        returned(&tracker, 2, "jobs");
        drop(publishes);
        confirmed(&tracker, 3, true, true);
        assert!(tracker.state().returned.is_empty());
        // A broker that never confirms is given up at the limit, even if a publisher still waits.
        let mut last = added(&tracker, MAX_UNCONFIRMED).split_off(MAX_UNCONFIRMED - 1);
        assert!(!tracker.state().is_usable());
        assert_eq!(outcomes(&mut last), ".");
        tracker.state().publisher_dropped = true;
        assert!(tracker.state().is_done());
    }

    #[test]
    fn a_close_completes_all_publishes_as_unknown_and_later_ones_fail() {
        let tracker = ConfirmTracker::default();
        let mut publishes = added(&tracker, 3);
        confirmed(&tracker, 2, false, true);
        assert!(tracker.state().is_usable());
        let reason = || Error::new(ErrorKind::Disconnected);
        tracker.on_event(ChannelEvent::Closed(reason()));
        tracker.close(&reason());
        assert_eq!(outcomes(&mut publishes), "?s?");
        assert!(!tracker.state().is_usable());
        let error = add(&tracker, 4, "jobs").unwrap_err();
        assert!(error.is_disconnected(), "{error}");
        confirmed(&tracker, 4, true, true);
    }

    #[test]
    fn a_close_wakes_the_task_that_holds_the_channel() {
        let tracker = ConfirmTracker::default();
        let _promises = added(&tracker, 1);
        tracker.state().publisher_dropped = true;
        tracker.on_event(ChannelEvent::Closed(Error::new(ErrorKind::Disconnected)));
        assert!(tracker.changed.notified().now_or_never().is_some());
        assert!(tracker.state().is_done());
    }

    #[test]
    fn a_channel_that_nacks_for_too_long_is_not_used_any_more() {
        let tracker = ConfirmTracker::default();
        let refuse = |id: usize| {
            let receiver = add(&tracker, id, &id.to_string()).unwrap();
            confirmed(&tracker, id as u64, false, false);
            assert_eq!(outcomes(&mut [receiver]), "r");
        };
        (1..=3).for_each(refuse);
        assert!(tracker.state().is_usable());
        tracker.state().nacks.since = Instant::now().checked_sub(NACK_TOLERANCE);
        refuse(4);
        assert!(!tracker.state().is_usable());
    }

    #[test]
    fn an_ack_of_the_last_nacked_route_ends_the_tolerance() {
        let tracker = ConfirmTracker::default();
        let mut publishes = added(&tracker, 3);
        confirmed(&tracker, 1, false, false);
        tracker.state().nacks.since = Instant::now().checked_sub(NACK_TOLERANCE);
        confirmed(&tracker, 2, false, true);
        confirmed(&tracker, 3, false, false);
        assert_eq!(outcomes(&mut publishes), "rsr");
        assert!(tracker.state().is_usable());
    }

    #[test]
    fn a_channel_is_done_once_its_publisher_is_dropped_and_all_is_confirmed() {
        let tracker = ConfirmTracker::default();
        let publishes = added(&tracker, 2);
        tracker.state().publisher_dropped = true;
        confirmed(&tracker, 2, false, true);
        assert!(!tracker.state().is_done());
        drop(publishes);
        confirmed(&tracker, 1, false, true);
        assert!(tracker.state().is_done());
    }

    proptest! {
        /// Confirms in any order, single or multiple, after returns of some messages.
        #[test]
        fn each_publish_gets_its_own_outcome_once(
            kinds in prop::collection::vec(0_u8..3, 1..40),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..60),
        ) {
            let tracker = ConfirmTracker::default();
            let mut publishes = added(&tracker, kinds.len());
            let mut open: BTreeMap<usize, u8> = (1..).zip(kinds.iter().copied()).collect();
            for (id, _) in open.iter().filter(|(_, confirmation)| **confirmation == 1) {
                returned(&tracker, *id, "jobs");
            }
            let mut expected = vec!['.'; kinds.len()];
            let mut confirm = |open: &mut BTreeMap<usize, u8>, id: usize, multiple: bool| {
                let is_ack = open[&id] < 2;
                // A confirm for several messages covers messages of the same outcome only.
                let same = |confirmation: u8| (confirmation < 2) == is_ack;
                let multiple = multiple && open.range(..=id).all(|(_, confirmation)| same(*confirmation));
                let from = if multiple { 1 } else { id };
                for id in from..=id {
                    if let Some(confirmation) = open.remove(&id) {
                        expected[id - 1] = ['s', 'u', 'r'][usize::from(confirmation)];
                    }
                }
                confirmed(&tracker, id as u64, multiple, is_ack);
            };
            for (index, multiple) in order {
                if open.is_empty() {
                    break;
                }
                let ids: Vec<_> = open.keys().copied().collect();
                confirm(&mut open, *index.get(&ids), multiple);
            }
            prop_assert_eq!(outcomes(&mut publishes), expected.into_iter().collect::<String>());
        }
    }
}
