//! From a delivery to a handler and on: acknowledged, sent to wait for another attempt, or buried.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Spec;
use super::in_hand::InHand;
use super::job::{Cancelled, RawJob, Stopping};
use super::producer::now;
use crate::clock;
use crate::context::{Context, Facts};
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::link::{Channel, Connection, Delivery, Namespace};
use crate::panic::{self, Ended};
use crate::policy::refusal;
use crate::policy::retry::RetryPolicy;
use crate::policy::settle::{self, Arrival, Decision, Reason};
use crate::policy::verdict::{Judgement, Retry, Verdict};
use crate::publish::{Publisher, TIMEOUT, Target};
use crate::random;
use crate::service::BoxFuture;
use crate::stats::Counters;
use crate::wire::envelope::{self, JobHead, Obituary, Route};
use crate::wire::message::{Incoming, Outgoing, Properties};
use crate::wire::topology::{Queue, QueueKind, Topology};
use crate::wire::value::Table;
use crate::worker::{Handler, Settlement, report_loss};

/// How often it is said that a job still cannot be moved.
const AGAIN: Duration = Duration::from_secs(60);

/// So late in a series of failures the pause is the longest.
const LATE: u32 = 32;

/// The delay of a job that is only to be counted on, where it has to wait at all.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// What does a job: a closure with a type, or a set of tasks.
pub(crate) trait Work: Send + Sync + 'static {
    /// Does it. What cannot be decoded is hopeless.
    fn perform(&self, job: RawJob) -> BoxFuture<Verdict>;

    /// How long this task may take, if it has a limit of its own.
    fn limit(&self, _task: Option<&str>) -> Option<Duration> {
        None
    }
}

/// Does the jobs of one queue.
pub(crate) struct JobHandler {
    spec: Spec,
    work: Arc<dyn Work>,
    timeout: Option<Duration>,
    publisher: Publisher,
    namespace: Namespace,
    backoff: RetryPolicy,
    /// Whom the broker takes messages from on this connection.
    user: Option<String>,
    counters: Arc<Counters>,
    stopping: watch::Sender<Stopping>,
    in_hand: InHand,
}

impl JobHandler {
    pub(crate) fn new(
        connection: &Connection,
        spec: Spec,
        work: Arc<dyn Work>,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            spec,
            work,
            timeout,
            publisher: Publisher::without_size_limit(connection),
            namespace: connection.namespace().clone(),
            backoff: connection.backoff().clone(),
            user: connection.user().map(str::to_owned),
            counters: connection.counters(),
            stopping: watch::Sender::new(Stopping::default()),
            in_hand: InHand::new(),
        }
    }

    /// Does the job. What it is made of is put away here and now, so that the future stays small.
    fn perform(
        &self,
        channel: &Arc<Channel>,
        message: &Incoming,
        head: JobHead,
        attempt: u32,
    ) -> impl Future<Output = Verdict> + Send + use<'_> {
        let limit = self.work.limit(head.task.as_deref()).or(self.timeout);
        let deadline = limit.map(|limit| clock::deadline(Instant::now(), limit));
        let context = Context::new(Facts {
            service: self.spec.name.clone().into(),
            method: head.task.clone().unwrap_or_default().into(),
            deadline,
            headers: head.headers.clone(),
            trace: head.trace.clone(),
            caller: head.caller.clone(),
            message_id: head.message_id.clone(),
            redelivered: message.redelivered,
            attempt,
        });
        let cancelled = Cancelled::new(channel, self.stopping.subscribe());
        let job = RawJob::new(message, head, attempt, cancelled);
        let work = context.handler(|| self.work.perform(job));
        // Without an `async` block, which would have a place for it twice.
        panic::catch(deadline, work).map(move |ended| {
            let error = match ended {
                Ended::Done(verdict) => return verdict,
                Ended::Late => format!("stopped after {:?}", limit.unwrap_or_default()),
                Ended::Panicked(text) => {
                    self.counters.panics.add();
                    format!("panicked: {text}")
                }
            };
            Verdict(Judgement::Failed {
                error,
                retry: Retry::Backoff,
            })
        })
    }

    /// What is to be done with a job that has come.
    fn arrive(&self, message: &Incoming) -> Arrived {
        let head = JobHead::read(&message.properties);
        let counted_by_broker = self.spec.kind == QueueKind::Quorum || head.unsettled > 0;
        let past = self.in_hand.past(message, counted_by_broker);
        if past.is_done {
            let (queue, message_id) =
                (self.spec.name.as_str(), escaped(head.message_id.as_deref()));
            tracing::info!(
                queue,
                message_id,
                "a job was done after the broker took it away"
            );
            return Arrived::Decided(Decision::Ack, head.attempt);
        }
        let unsettled = head.unsettled.saturating_sub(past.taken_away);
        let attempt = head.attempt.saturating_add(unsettled);
        let arrival = Arrival {
            attempt,
            redelivered: message.redelivered && (counted_by_broker || past.taken_away == 0),
            counted_by_broker,
        };
        let policy = &self.spec.retry;
        match settle::before(arrival, policy) {
            // A quorum queue has counted the attempt that is not made any more.
            Some(decision) => Arrived::Decided(decision, attempt.min(policy.max_attempts())),
            None => Arrived::Due(head, attempt),
        }
    }

    async fn carry_out(
        &self,
        channel: &Channel,
        decision: Decision,
        attempt: u32,
        message: Incoming,
    ) -> Settlement {
        let moved = self.move_on(channel, decision, attempt, &message);
        let error = match moved.await {
            Ok(settlement) => return settlement,
            Err(error) => error,
        };
        // Another program may send larger headers than fit in our frames.
        let burial = Decision::Bury {
            reason: Reason::Rejected,
            error: format!("it cannot be sent on with its headers, here it is without: {error}"),
        };
        let mut bare = message;
        bare.properties.headers = Table::new();
        let moved = self.move_on(channel, burial, attempt, &bare);
        match moved.await {
            Ok(settlement) => settlement,
            Err(error) => self.stuck(channel, &bare, &error).await,
        }
    }

    /// After a job that the broker takes neither for another attempt nor as a dead letter, such as
    /// one that is larger than it allows by now.
    async fn stuck(&self, channel: &Channel, message: &Incoming, error: &Error) -> Settlement {
        let queue = self.spec.name.as_str();
        let message_id = escaped(message.properties.message_id.as_deref());
        // What the broker moves by itself it does not measure again.
        if self.spec.keeps_rejected() {
            tracing::error!(
                queue,
                message_id,
                %error,
                "the broker does not take a job that is to be moved: it is rejected, and the broker \
                 moves it to the dead-letter queue without its error"
            );
            self.counters.dead_lettered.add();
            return Settlement::Reject;
        }
        let pause = self.backoff.jittered(LATE, random::fraction());
        tracing::error!(
            queue,
            message_id,
            %error,
            ?pause,
            "the broker does not take a job that is to be moved, and its queue has no dead-letter \
             exchange that Lepus knows of: it goes back to its queue after a pause"
        );
        self.pause(channel, pause).await;
        Settlement::Requeue
    }

    /// Waits; not when the pool is told to stop, and not for a channel that is gone.
    async fn pause(&self, channel: &Channel, pause: Duration) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = channel.down() => {}
            _ = stopping.wait_for(|stopping| stopping.is_draining || !channel.is_open()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Moves a job to where the decision says, and says what becomes of the original.
    ///
    /// # Errors
    /// It can never get there. A connection that is lost or a queue that is full is no reason.
    async fn move_on(
        &self,
        channel: &Channel,
        decision: Decision,
        attempt: u32,
        message: &Incoming,
    ) -> Result<Settlement, Error> {
        let queue = self.spec.name.as_str();
        let properties = || message.properties.clone();
        let (exchange, routing_key) = (&message.exchange, &message.routing_key);
        let (home, properties, done) = match decision {
            Decision::Ack => return Ok(Settlement::Ack),
            Decision::Requeue => return Ok(Settlement::Requeue),
            Decision::Retry {
                attempt,
                delay,
                error,
            } => {
                tracing::info!(
                    queue,
                    attempt,
                    ?delay,
                    error = %Escaped(&error),
                    "a job failed and is tried again"
                );
                let mut properties = envelope::retried(properties(), attempt, &error);
                Route::note(exchange, routing_key, &mut properties);
                // A queue that is full would refuse it, and nobody else would get on meanwhile.
                let home = if delay.is_zero() && self.spec.max_length.is_none() {
                    self.spec.main()?
                } else {
                    let delay = delay.max(SHORTEST_DELAY);
                    properties.expiration = Some(envelope::expiration(delay));
                    self.spec.delayed(delay)?
                };
                (home, properties, &self.counters.retried)
            }
            Decision::Bury { reason, error } => {
                tracing::warn!(
                    queue,
                    attempt,
                    reason = reason.as_str(),
                    error = %Escaped(&error),
                    "a job was given up"
                );
                let obituary = self.obituary(reason, error, attempt);
                let mut properties = obituary.write(properties());
                Route::note(exchange, routing_key, &mut properties);
                (self.spec.dead()?, properties, &self.counters.dead_lettered)
            }
        };
        Ok(
            match self.put(channel, home, properties, &message.body).await? {
                Moved::Yes => {
                    done.add();
                    Settlement::Ack
                }
                // The job was not acknowledged: the broker delivers it again.
                Moved::TooLate => Settlement::Settled,
                Moved::Stopping => Settlement::Requeue,
            },
        )
    }

    fn obituary(&self, reason: Reason, error: String, attempts: u32) -> Obituary {
        Obituary {
            reason: reason.as_str().to_owned(),
            error,
            first_error: None,
            attempts,
            source_queue: self.spec.name.clone(),
            failed_at: now(),
        }
    }

    /// Publishes a copy until it is confirmed, or until the original is no longer ours.
    async fn put(
        &self,
        channel: &Channel,
        queue: Queue,
        properties: Properties,
        body: &bytes::Bytes,
    ) -> Result<Moved, Error> {
        let name = self.namespace.scope(queue.name().as_str());
        let what = Target {
            service: self.spec.name.as_str().into(),
            method: properties.kind.as_deref().unwrap_or_default().into(),
            queue: name.as_str().into(),
        };
        let home = self.spec.home(Topology::queue(queue));
        let message = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key: name,
            mandatory: true,
            properties: self.own(properties),
            body: body.clone(),
        });
        let mut failures = 0;
        let (began, mut said) = (Instant::now(), None);
        loop {
            // The broker gives the original out again: a copy would be one job more.
            if !channel.is_open() {
                return Ok(Moved::TooLate);
            }
            let publisher = &self.publisher;
            let publish = publisher.publish_or_declare(Arc::clone(&message), TIMEOUT, &home);
            let error = match publish.await.map_err(|fault| fault.into_error(&what)) {
                Ok(()) => return Ok(Moved::Yes),
                Err(error) if refusal::is_final(&error) => return Err(error),
                Err(error) => error,
            };
            // A stop does not wait for what has failed: the broker still has the original.
            if self.stopping.borrow().is_draining {
                tracing::warn!(%error, "a job cannot be moved, and goes back to its queue");
                return Ok(Moved::Stopping);
            }
            failures += 1;
            let elapsed = began.elapsed();
            match said {
                None => {
                    tracing::error!(%error, "a job cannot be moved, trying again");
                    said = Some(elapsed);
                }
                Some(last) if elapsed.saturating_sub(last) >= AGAIN => {
                    tracing::warn!(%error, ?elapsed, failures, "a job still cannot be moved, trying again");
                    said = Some(elapsed);
                }
                Some(_) => {}
            }
            let pause = self.backoff.jittered(failures, random::fraction());
            self.pause(channel, pause).await;
        }
    }

    /// The properties of a copy, which has another publisher now. Other programs' messages may
    /// have no id; returns are matched by it.
    fn own(&self, mut properties: Properties) -> Properties {
        envelope::sent_by(&mut properties, self.user.as_deref());
        properties.message_id.get_or_insert_with(random::identity);
        properties
    }
}

/// A job that has come.
enum Arrived {
    /// It is not run, and its number of attempts.
    Decided(Decision, u32),
    /// It is run, in this attempt.
    Due(JobHead, u32),
}

enum Moved {
    Yes,
    TooLate,
    /// It was not moved, and the pool is told to stop.
    Stopping,
}

impl Handler for JobHandler {
    /// Not an `async fn`, which would have a place for the delivery twice.
    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        mut delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send {
        let has_count = self.spec.kind == QueueKind::Quorum || self.spec.passive;
        envelope::remove_foreign_notes(&mut delivery.message, has_count);
        async move {
            // The head is not borrowed here: it would have another place in this future.
            let (head, attempt) = match self.arrive(&delivery.message) {
                Arrived::Due(head, attempt) => (head, attempt),
                Arrived::Decided(decision, attempt) => {
                    let carry_out = self.carry_out(&channel, decision, attempt, delivery.message);
                    return Box::pin(carry_out).await;
                }
            };
            let held = self.in_hand.hold(&channel, &delivery.message);
            let perform = self.perform(&channel, &delivery.message, head, attempt);
            let verdict = perform.await;
            match verdict.0 {
                Judgement::Done => held.handled(true),
                Judgement::Failed { .. } => held.handled(false),
                Judgement::Untouched => {}
            }
            let decision = settle::after(verdict, attempt, &self.spec.retry, random::fraction());
            if matches!(decision, Decision::Ack) {
                return Settlement::Ack;
            }
            // Boxed: it is much the larger part, and the rarer one.
            Box::pin(self.carry_out(&channel, decision, attempt, delivery.message)).await
        }
    }

    fn drain(&self) {
        self.stopping
            .send_modify(|stopping| stopping.is_draining = true);
    }

    fn lost(&self, queue: &str, channel: &Arc<Channel>, error: &Error) {
        report_loss(queue, error);
        if let Some(limit) = refusal::overdue(error) {
            self.in_hand.taken_away(channel, limit);
        }
        self.stopping.send_modify(|stopping| stopping.losses += 1);
    }

    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        self.in_hand.watch(&self.spec.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;
    use crate::worker::work;

    /// One a job, and each is moved to the heap: the allocator is slow beyond 1 KiB.
    #[test]
    fn the_future_of_a_job_stays_small() {
        type Given = (Arc<JobHandler>, Arc<Counters>, Arc<Channel>, Delivery);
        let work = size_of_future(|(handler, counters, channel, delivery): Given| {
            work(handler, counters, channel, delivery)
        });
        assert!(work <= 1024, "{work}");
    }
}
