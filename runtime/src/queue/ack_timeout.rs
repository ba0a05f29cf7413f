//! The broker's acknowledgement timeout (RabbitMQ's `consumer_timeout`): the unacknowledged jobs of a
//! pool, and those whose acknowledgement came too late.
//!
//! When a job is not acknowledged in time, the broker closes its channel and redelivers all that was
//! unacknowledged on it. No attempt at those jobs has failed because of that. A pool that recognizes
//! such a redelivery therefore does not count it as an attempt, and acknowledges the job at once if
//! its handler has finished it meanwhile.

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
use crate::wire::message::IncomingMessage;

/// RabbitMQ's default `consumer_timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The part of the timeout after which a job is warned of.
const WARN_AFTER: f64 = 0.8;
/// The number of timed-out jobs that are remembered.
const MAX_REMEMBERED: usize = 1024;
/// The time for which they are. The broker redelivers them at once, here or to another worker.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// The jobs of one pool that are not acknowledged.
#[derive(Debug)]
pub(super) struct UnackedJobs {
    jobs: Mutex<TrackedJobs>,
    /// The broker's timeout, once it has named it in a `channel.close`.
    timeout: watch::Sender<Option<Duration>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct TrackedJobs {
    next: u64,
    unacked: HashMap<u64, UnackedJob>,
    /// The oldest first.
    timed_out: VecDeque<TimedOutJob>,
}

#[derive(Debug)]
struct UnackedJob {
    /// The address of its channel. The handler of the job keeps the channel, so that no other
    /// channel has this address for as long as the job is tracked.
    channel: usize,
    key: JobKey,
    since: Instant,
    is_warned: bool,
    is_timed_out: bool,
}

/// Recognizes a job when it is redelivered.
#[derive(Debug)]
enum JobKey {
    MessageId(String),
    /// For messages of other programs that have no id.
    Body(Bytes),
}

/// A job whose acknowledgement timed out.
#[derive(Debug)]
struct TimedOutJob {
    key: u64,
    /// The number of its deliveries that ended so and in which no attempt failed.
    times: u32,
    is_done: bool,
    /// When this was last updated.
    at: Instant,
}

/// The earlier deliveries of a job, as far as this pool knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryHistory {
    /// The number of deliveries that ended with the acknowledgement timeout and in which no attempt
    /// failed.
    pub(super) timed_out: u32,
    /// Whether the job was done in one of them.
    pub(super) is_done: bool,
}

/// Tracks a job as unacknowledged until it is dropped.
pub(super) struct UnackedGuard<'a> {
    jobs: &'a UnackedJobs,
    number: u64,
}

impl UnackedJobs {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            timeout: watch::Sender::new(None),
            hasher: RandomState::new(),
        }
    }

    /// Tracks a delivery.
    pub(super) fn track(
        &self,
        channel: &Arc<Channel>,
        message: &IncomingMessage,
    ) -> UnackedGuard<'_> {
        self.track_on(address(channel), message)
    }

    fn track_on(&self, channel: usize, message: &IncomingMessage) -> UnackedGuard<'_> {
        let key = match &message.properties.message_id {
            Some(id) => JobKey::MessageId(id.clone()),
            None => JobKey::Body(message.body.clone()),
        };
        let job = UnackedJob {
            channel,
            key,
            since: Instant::now(),
            is_warned: false,
            is_timed_out: false,
        };
        let mut jobs = self.jobs();
        let number = jobs.next;
        jobs.next += 1;
        jobs.unacked.insert(number, job);
        UnackedGuard { jobs: self, number }
    }

    /// The history of a delivery. `is_counted` says whether the broker counts deliveries, which a
    /// classic queue does not: its `redelivered` flag stands for all of them, so that it can be
    /// explained by a timeout once, and the entry is removed here.
    pub(super) fn history(&self, message: &IncomingMessage, is_counted: bool) -> DeliveryHistory {
        let mut jobs = self.jobs();
        // The usual case, without the hash.
        if jobs.timed_out.is_empty() {
            return DeliveryHistory::default();
        }
        jobs.timed_out
            .retain(|job| job.at.elapsed() < REMEMBERED_FOR);
        let key = match &message.properties.message_id {
            Some(id) => self.hasher.hash_one(id.as_bytes()),
            None => self.hasher.hash_one(&*message.body),
        };
        let Some(at) = jobs.timed_out.iter().position(|job| job.key == key) else {
            return DeliveryHistory::default();
        };
        let Some(known) = jobs.timed_out.get(at) else {
            return DeliveryHistory::default();
        };
        let history = DeliveryHistory {
            timed_out: known.times,
            is_done: known.is_done,
        };
        // A first delivery is another job with the same key.
        if !message.redelivered {
            jobs.timed_out.remove(at);
            return DeliveryHistory::default();
        }
        if history.is_done || !is_counted {
            jobs.timed_out.remove(at);
        }
        history
    }

    /// The broker closed a channel because an acknowledgement timed out, after `timeout` if it says
    /// so.
    pub(super) fn channel_timed_out(&self, channel: &Arc<Channel>, timeout: Option<Duration>) {
        self.timed_out_on(address(channel), timeout);
    }

    fn timed_out_on(&self, channel: usize, timeout: Option<Duration>) {
        let mut jobs = self.jobs();
        let TrackedJobs {
            unacked, timed_out, ..
        } = &mut *jobs;
        for job in unacked.values_mut().filter(|job| job.channel == channel) {
            job.is_timed_out = true;
            let key = self.hash(&job.key);
            match timed_out.iter_mut().find(|job| job.key == key) {
                Some(known) => {
                    known.times = known.times.saturating_add(1);
                    known.at = Instant::now();
                }
                None => timed_out.push_back(TimedOutJob {
                    key,
                    times: 1,
                    is_done: false,
                    at: Instant::now(),
                }),
            }
        }
        let surplus = timed_out.len().saturating_sub(MAX_REMEMBERED);
        timed_out.drain(..surplus);
        drop(jobs);
        if timeout.is_some() {
            self.timeout.send_replace(timeout);
        }
    }

    /// Warns of jobs whose acknowledgement is about to time out.
    pub(super) async fn warn_before_timeout(&self, queue: &str) -> Infallible {
        let mut timeout = self.timeout.subscribe();
        loop {
            let known = *timeout.borrow_and_update();
            let next = self.warn(queue, known);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                // This cannot fail: the sender is in `self`.
                _ = timeout.changed() => {}
            }
        }
    }

    /// Warns of the jobs that are due for it, and returns when the next one may be.
    fn warn(&self, queue: &str, known: Option<Duration>) -> Instant {
        let timeout = known.unwrap_or(DEFAULT_TIMEOUT);
        let after = clock::fraction_of(timeout, WARN_AFTER);
        let now = Instant::now();
        // No job that is delivered later is due before that.
        let mut next = clock::deadline(now, after);
        for job in self.jobs().unacked.values_mut() {
            if job.is_warned || job.is_timed_out {
                continue;
            }
            let due = clock::deadline(job.since, after);
            if due > now {
                next = next.min(due);
                continue;
            }
            job.is_warned = true;
            let message_id = match &job.key {
                JobKey::MessageId(id) => Some(id.as_str()),
                JobKey::Body(_) => None,
            };
            tracing::warn!(
                queue,
                message_id = escaped(message_id),
                elapsed = ?now.duration_since(job.since),
                ?timeout,
                is_default = known.is_none(),
                "job is not acknowledged and its time is nearly up: after its consumer_timeout the \
                 broker closes the channel and redelivers all unacknowledged jobs of it"
            );
        }
        next
    }

    fn hash(&self, key: &JobKey) -> u64 {
        match key {
            JobKey::MessageId(id) => self.hasher.hash_one(id.as_bytes()),
            JobKey::Body(body) => self.hasher.hash_one(&**body),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, TrackedJobs> {
        lock(&self.jobs)
    }
}

fn address(channel: &Arc<Channel>) -> usize {
    Arc::as_ptr(channel).addr()
}

impl UnackedGuard<'_> {
    /// The handler has finished the job, or failed an attempt at it.
    pub(super) fn finished(&self, is_done: bool) {
        let mut jobs = self.jobs.jobs();
        let TrackedJobs {
            unacked, timed_out, ..
        } = &mut *jobs;
        let job = unacked.get(&self.number);
        let Some(job) = job.filter(|job| job.is_timed_out) else {
            return;
        };
        let key = self.jobs.hash(&job.key);
        let Some(known) = timed_out.iter_mut().find(|job| job.key == key) else {
            return;
        };
        if is_done {
            // Two jobs may have the same body, so that a body does not identify a job that is done.
            known.is_done = matches!(job.key, JobKey::MessageId(_));
        } else {
            known.times = known.times.saturating_sub(1);
        }
        known.at = Instant::now();
    }
}

impl Drop for UnackedGuard<'_> {
    fn drop(&mut self) {
        self.jobs.jobs().unacked.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Properties;

    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(3));

    fn message(id: Option<&str>, redelivered: bool) -> IncomingMessage {
        IncomingMessage {
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

    fn times(timed_out: u32) -> DeliveryHistory {
        DeliveryHistory {
            timed_out,
            is_done: false,
        }
    }

    #[test]
    fn a_timed_out_job_is_recognized_when_it_is_redelivered() {
        let unacked = UnackedJobs::new();
        let first = unacked.track_on(1, &message(Some("a"), false));
        let _other = unacked.track_on(2, &message(Some("b"), false));
        unacked.timed_out_on(1, TIMEOUT);
        let again = message(Some("a"), true);
        assert_eq!(unacked.history(&again, true), times(1));
        assert_eq!(unacked.history(&message(Some("b"), true), true), times(0));
        let second = unacked.track_on(1, &again);
        drop(first);
        unacked.timed_out_on(1, None);
        assert_eq!(unacked.history(&again, true), times(2));
        // An attempt failed in the second delivery.
        second.finished(false);
        assert_eq!(unacked.history(&again, true), times(1));
        assert_eq!(*unacked.timeout.borrow(), TIMEOUT);
        // On a classic queue it explains one redelivery.
        assert_eq!(unacked.history(&again, false), times(1));
        assert_eq!(unacked.history(&again, false), times(0));
    }

    #[test]
    fn a_timed_out_job_that_was_done_is_not_run_again_and_a_new_job_is() {
        let unacked = UnackedJobs::new();
        let again = message(Some("a"), true);
        let time_out = |message: &IncomingMessage| {
            let job = unacked.track_on(1, message);
            unacked.timed_out_on(1, TIMEOUT);
            job.finished(true);
        };
        time_out(&again);
        assert!(unacked.history(&again, true).is_done);
        assert_eq!(unacked.history(&again, true), times(0));
        time_out(&again);
        assert_eq!(unacked.history(&message(Some("a"), false), true), times(0));
        assert_eq!(unacked.history(&again, true), times(0));
        // A body does not identify a job that is done.
        let unnamed = message(None, true);
        time_out(&unnamed);
        assert_eq!(unacked.history(&unnamed, true), times(1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_job_is_warned_of_once_before_its_timeout() {
        let unacked = UnackedJobs::new();
        let _job = unacked.track_on(1, &message(Some("a"), false));
        let warned = || unacked.jobs().unacked.values().all(|job| job.is_warned);
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let began = Instant::now();
        assert_eq!(unacked.warn("jobs", None), began + minutes(24));
        assert!(!warned());
        tokio::time::advance(minutes(24)).await;
        assert_eq!(unacked.warn("jobs", None), began + minutes(48));
        assert!(warned());
    }
}
