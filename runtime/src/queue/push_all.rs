//! Pushing many jobs at once: each is sent before the confirms of those before it have arrived.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::job_publisher::JobPublisher;
use super::push::{EncodedJob, Push};
use crate::error::Error;
use crate::publish::{MAX_UNCONFIRMED, PublishFailure, StartedPublish};
use crate::stats::HandlerOutcome;

/// A push that runs by itself, and its index among the results.
type WaitingPush = Pin<Box<dyn Future<Output = (usize, Result<(), Error>)> + Send>>;

/// The state of one [`Producer::push_all`](super::Producer::push_all).
pub(super) struct PushAll<'a> {
    publisher: &'a JobPublisher,
    /// One for each job; `Ok` as well for those that have not ended yet.
    results: Vec<Result<(), Error>>,
    /// The jobs that were sent, in that order, in which their confirms mostly arrive too.
    sent: VecDeque<(usize, EncodedJob, StartedPublish<'a>)>,
    /// The jobs that could not be sent at once, and those that are published again after their queue
    /// was missing.
    waiting: FuturesUnordered<WaitingPush>,
}

impl<'a> PushAll<'a> {
    pub(super) fn new(publisher: &'a JobPublisher) -> Self {
        Self {
            publisher,
            results: Vec::new(),
            sent: VecDeque::new(),
            waiting: FuturesUnordered::new(),
        }
    }

    /// Sends a job, and waits for others if too many are unconfirmed.
    pub(super) async fn push(&mut self, push: Push) {
        let index = self.results.len();
        let job = match push.encode() {
            Ok(job) => job,
            Err(error) => return self.results.push(Err(error)),
        };
        self.results.push(Ok(()));
        let publisher = self.publisher.publisher();
        if index == 0 {
            publisher.wait_until_ready(job.timeout()).await;
        }
        // The permits may all be held by jobs in `sent`, which nobody else waits for: they have to
        // be finished here to make room.
        while self.sent.len() + self.waiting.len() >= MAX_UNCONFIRMED || publisher.is_full() {
            if !self.finish_one().await {
                break;
            }
        }
        // Not ahead of jobs that wait to be sent. Those with layers are sent by their layers.
        let started = if self.waiting.is_empty() && !job.is_layered() {
            publisher.try_start(&job.message(), job.timeout())
        } else {
            None
        };
        match started {
            Some(Ok(started)) => self.sent.push_back((index, job, started)),
            Some(Err(failure)) => self.failed(index, job, failure),
            None => {
                let push = async move { (index, job.push().await) };
                self.waiting.push(Box::pin(push));
            }
        }
    }

    /// Waits for the oldest job that was sent, or for any other if there is none. Returns `false` if
    /// all have ended.
    async fn finish_one(&mut self) -> bool {
        if let Some((index, job, started)) = self.sent.pop_front() {
            match started.wait().await {
                Ok(()) => job.ended(HandlerOutcome::Ok),
                Err(failure) => self.failed(index, job, failure),
            }
        } else if let Some((index, result)) = self.waiting.next().await {
            self.finish(index, result);
        } else {
            return false;
        }
        true
    }

    fn finish(&mut self, index: usize, result: Result<(), Error>) {
        if let Some(slot) = self.results.get_mut(index) {
            *slot = result;
        }
    }

    fn failed(&mut self, index: usize, job: EncodedJob, failure: PublishFailure) {
        if !failure.may_lack_queue() {
            return self.finish(index, Err(job.error(failure)));
        }
        let again = async move { (index, job.push_again(failure).await) };
        self.waiting.push(Box::pin(again));
    }

    /// Waits for all jobs.
    pub(super) async fn results(mut self) -> Vec<Result<(), Error>> {
        while self.finish_one().await {}
        self.results
    }
}
