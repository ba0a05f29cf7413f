//! The jobs that a pool has in hand, and those that the broker took away because they were not
//! acknowledged in time (RabbitMQ's `consumer_timeout`).
//!
//! The broker closes the channel then, and delivers again all that was unacknowledged on it. No
//! attempt at such a job has failed for that: a pool that knows it again does not count the
//! delivery, and acknowledges the job if it was done after all.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::escape::escaped;
use crate::link::Channel;
use crate::sync::lock;
use crate::wire::message::Incoming;

/// RabbitMQ's `consumer_timeout` unless it is set.
const USUAL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How many jobs are known again.
const REMEMBERED: usize = 1024;
/// For how long: a job that was taken away is delivered again at once, here or elsewhere.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The jobs of one pool.
#[derive(Debug)]
pub(super) struct InHand {
    state: Mutex<State>,
    /// How long a delivery may wait for its acknowledgement, once the broker has said so.
    limit: watch::Sender<Option<Duration>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    jobs: HashMap<u64, Held>,
    /// The oldest first.
    taken_away: VecDeque<TakenAway>,
}

#[derive(Debug)]
struct Held {
    /// Its channel's address: that lives as long as the job is held.
    channel: usize,
    key: Key,
    since: Instant,
    is_warned: bool,
    is_taken_away: bool,
}

/// By what a job is known again.
#[derive(Debug)]
enum Key {
    Id(String),
    Body(Bytes),
}

/// A job that the broker took away for want of its acknowledgement.
#[derive(Debug)]
struct TakenAway {
    key: u64,
    /// How many deliveries ended so, and no attempt failed in them.
    times: u32,
    is_done: bool,
    at: Instant,
}

/// What a pool knows of a job that it is given again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// How many deliveries the broker took away, and no attempt failed in them.
    pub(super) taken_away: u32,
    /// It was done in one of them.
    pub(super) is_done: bool,
}

/// A job in hand, until this is dropped.
pub(super) struct InHandGuard<'a> {
    in_hand: &'a InHand,
    number: u64,
}

impl InHand {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            limit: watch::Sender::new(None),
            hasher: RandomState::new(),
        }
    }

    /// Notes a job that has come.
    pub(super) fn hold(&self, channel: &Arc<Channel>, message: &Incoming) -> InHandGuard<'_> {
        self.hold_of(address(channel), message)
    }

    fn hold_of(&self, channel: usize, message: &Incoming) -> InHandGuard<'_> {
        let key = match &message.properties.message_id {
            Some(id) => Key::Id(id.clone()),
            None => Key::Body(message.body.clone()),
        };
        let held = Held {
            channel,
            key,
            since: Instant::now(),
            is_warned: false,
            is_taken_away: false,
        };
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.jobs.insert(number, held);
        InHandGuard {
            in_hand: self,
            number,
        }
    }

    /// What is known of a job that has come. Knowledge of a job on a classic queue, which the broker
    /// does not count the deliveries of, is used up by it.
    pub(super) fn past(&self, message: &Incoming, is_counted: bool) -> Past {
        let mut state = self.state();
        // Mostly there are none.
        if state.taken_away.is_empty() {
            return Past::default();
        }
        state
            .taken_away
            .retain(|taken| taken.at.elapsed() < REMEMBERED_FOR);
        let key = match &message.properties.message_id {
            Some(id) => self.hasher.hash_one(id.as_bytes()),
            None => self.hasher.hash_one(&*message.body),
        };
        let Some(at) = state.taken_away.iter().position(|taken| taken.key == key) else {
            return Past::default();
        };
        let Some(known) = state.taken_away.get(at) else {
            return Past::default();
        };
        let past = Past {
            taken_away: known.times,
            is_done: known.is_done,
        };
        // One that is new has the name of an earlier one.
        if !message.redelivered {
            state.taken_away.remove(at);
            return Past::default();
        }
        if past.is_done || !is_counted {
            state.taken_away.remove(at);
        }
        past
    }

    /// The broker closed a channel for want of an acknowledgement.
    pub(super) fn taken_away(&self, channel: &Arc<Channel>, limit: Option<Duration>) {
        self.taken_away_of(address(channel), limit);
    }

    fn taken_away_of(&self, channel: usize, limit: Option<Duration>) {
        let mut state = self.state();
        let State {
            jobs, taken_away, ..
        } = &mut *state;
        for held in jobs.values_mut().filter(|held| held.channel == channel) {
            held.is_taken_away = true;
            let key = self.key(&held.key);
            match taken_away.iter_mut().find(|taken| taken.key == key) {
                Some(taken) => {
                    taken.times = taken.times.saturating_add(1);
                    taken.at = Instant::now();
                }
                None => taken_away.push_back(TakenAway {
                    key,
                    times: 1,
                    is_done: false,
                    at: Instant::now(),
                }),
            }
        }
        let least = taken_away.len().saturating_sub(REMEMBERED);
        taken_away.drain(..least);
        drop(state);
        if limit.is_some() {
            self.limit.send_replace(limit);
        }
    }

    /// Warns of jobs that are about to be taken away.
    pub(super) async fn watch(&self, queue: &str) -> Infallible {
        let mut limit = self.limit.subscribe();
        loop {
            let known = *limit.borrow_and_update();
            let next = self.warn(queue, known);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                // Its sender is here.
                _ = limit.changed() => {}
            }
        }
    }

    /// Warns of those whose time is nearly up, and says when the next one's may be.
    fn warn(&self, queue: &str, known: Option<Duration>) -> Instant {
        let limit = known.unwrap_or(USUAL_LIMIT);
        let due = clock::fraction_of(limit, 0.8);
        let now = Instant::now();
        // No job that comes later is due before that.
        let mut next = clock::deadline(now, due);
        for held in self.state().jobs.values_mut() {
            if held.is_warned || held.is_taken_away {
                continue;
            }
            let is_due = clock::deadline(held.since, due);
            if is_due > now {
                next = next.min(is_due);
                continue;
            }
            held.is_warned = true;
            let message_id = match &held.key {
                Key::Id(id) => Some(id.as_str()),
                Key::Body(_) => None,
            };
            tracing::warn!(
                queue,
                message_id = escaped(message_id),
                elapsed = ?now.duration_since(held.since),
                ?limit,
                is_default = known.is_none(),
                "a job is not acknowledged and its time is nearly up: at the broker's \
                 consumer_timeout it is taken away, and so is everything in hand on its channel"
            );
        }
        next
    }

    fn key(&self, key: &Key) -> u64 {
        match key {
            Key::Id(id) => self.hasher.hash_one(id.as_bytes()),
            Key::Body(body) => self.hasher.hash_one(&**body),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn address(channel: &Arc<Channel>) -> usize {
    Arc::as_ptr(channel).addr()
}

impl InHandGuard<'_> {
    /// Its handler is done with it; an attempt failed, if it was not a success.
    pub(super) fn handled(&self, is_done: bool) {
        let mut state = self.in_hand.state();
        let State {
            jobs, taken_away, ..
        } = &mut *state;
        let held = jobs.get(&self.number);
        let Some(held) = held.filter(|held| held.is_taken_away) else {
            return;
        };
        let key = self.in_hand.key(&held.key);
        let Some(taken) = taken_away.iter_mut().find(|taken| taken.key == key) else {
            return;
        };
        if is_done {
            // A body alone may be another job's as well.
            taken.is_done = matches!(held.key, Key::Id(_));
        } else {
            taken.times = taken.times.saturating_sub(1);
        }
        taken.at = Instant::now();
    }
}

impl Drop for InHandGuard<'_> {
    fn drop(&mut self) {
        self.in_hand.state().jobs.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Properties;

    const LIMIT: Option<Duration> = Some(Duration::from_secs(3));

    fn message(id: Option<&str>, redelivered: bool) -> Incoming {
        Incoming {
            exchange: String::new(),
            routing_key: "jobs".into(),
            redelivered,
            properties: Properties {
                message_id: id.map(str::to_owned),
                ..Properties::default()
            },
            size: 4,
            body: Bytes::from_static(b"body"),
        }
    }

    fn times(taken_away: u32) -> Past {
        Past {
            taken_away,
            is_done: false,
        }
    }

    #[test]
    fn what_was_taken_away_is_known_again() {
        let in_hand = InHand::new();
        let first = in_hand.hold_of(1, &message(Some("a"), false));
        let _other = in_hand.hold_of(2, &message(Some("b"), false));
        in_hand.taken_away_of(1, LIMIT);
        let again = message(Some("a"), true);
        assert_eq!(in_hand.past(&again, true), times(1));
        assert_eq!(in_hand.past(&message(Some("b"), true), true), times(0));
        let second = in_hand.hold_of(1, &again);
        drop(first);
        in_hand.taken_away_of(1, None);
        assert_eq!(in_hand.past(&again, true), times(2));
        // An attempt has failed in the second one.
        second.handled(false);
        assert_eq!(in_hand.past(&again, true), times(1));
        assert_eq!(*in_hand.limit.borrow(), LIMIT);
        // A classic queue tells of one delivery.
        assert_eq!(in_hand.past(&again, false), times(1));
        assert_eq!(in_hand.past(&again, false), times(0));
    }

    #[test]
    fn what_was_done_after_all_is_not_done_again_and_a_new_job_is() {
        let in_hand = InHand::new();
        let again = message(Some("a"), true);
        let take = |message: &Incoming| {
            let held = in_hand.hold_of(1, message);
            in_hand.taken_away_of(1, LIMIT);
            held.handled(true);
        };
        take(&again);
        assert!(in_hand.past(&again, true).is_done);
        assert_eq!(in_hand.past(&again, true), times(0));
        take(&again);
        assert_eq!(in_hand.past(&message(Some("a"), false), true), times(0));
        assert_eq!(in_hand.past(&again, true), times(0));
        // By its body alone a job is not taken for done.
        let unnamed = message(None, true);
        take(&unnamed);
        assert_eq!(in_hand.past(&unnamed, true), times(1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_job_is_warned_of_once_before_its_time_is_up() {
        let in_hand = InHand::new();
        let _held = in_hand.hold_of(1, &message(Some("a"), false));
        let warned = || in_hand.state().jobs.values().all(|held| held.is_warned);
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let began = Instant::now();
        assert_eq!(in_hand.warn("jobs", None), began + minutes(24));
        assert!(!warned());
        tokio::time::advance(minutes(24)).await;
        assert_eq!(in_hand.warn("jobs", None), began + minutes(48));
        assert!(warned());
    }
}
