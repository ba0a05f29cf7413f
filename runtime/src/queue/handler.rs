//! The handling of one delivery of a job: run it, then acknowledge it (`basic.ack`), publish it for
//! another attempt, or publish it to the dead-letter queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::QueueSpec;
use super::ack_timeout::UnackedJobs;
use super::job::RawJob;
use super::job_meters::JobMeters;
use crate::cancellation::{Cancellation, StopSignal};
use crate::clock;
use crate::context::{Context, Invocation, Times};
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::extensions::Extensions;
use crate::handler_guard::guard;
use crate::link::{Channel, Connection, Delivery, Namespace};
use crate::meter::Arrived;
use crate::observe::Hooks;
use crate::policy::backoff::Backoff;
use crate::policy::refusal;
use crate::policy::retry::RetryPolicy;
use crate::policy::settle::{self, Arrival, Decision, Reason};
use crate::policy::verdict::{Judgement, Verdict};
use crate::publish::{Publisher, TIMEOUT, Target};
use crate::random;
use crate::service::BoxFuture;
use crate::span::MessageSpan;
use crate::stats::{Counters, HandlerKind};
use crate::wire::envelope::{self, DeathRecord, JobHead, SourceRoute};
use crate::wire::message::{IncomingMessage, Outgoing, Properties};
use crate::wire::topology::{Queue, QueueKind, Topology};
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::Table;
use crate::worker::{Handler, Settlement, report_loss};

/// The interval at which a job that still cannot be moved is reported again.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// A number of failures at which the backoff has reached its longest pause.
const MANY_FAILURES: u32 = 32;

/// The delay of a job that need not wait, where it has to go through a delay queue all the same.
const MIN_DELAY: Duration = Duration::from_millis(1);

/// Runs jobs: a closure over jobs of one type, or a set of tasks.
pub(crate) trait JobRunner: Send + Sync + 'static {
    /// Runs a job. One that cannot be decoded is rejected.
    fn run(&self, job: RawJob) -> BoxFuture<Verdict>;

    /// Jobs or events.
    fn kind(&self) -> HandlerKind {
        HandlerKind::Job
    }

    /// The tasks that it runs, if its jobs are tasks.
    fn tasks(&self) -> Option<&'static ServiceDescriptor> {
        None
    }

    /// The method of a task. `None` if it has none, or if jobs are not tasks.
    fn method(&self, _task: Option<&str>) -> Option<&'static MethodDescriptor> {
        None
    }
}

/// Handles the deliveries of one queue of jobs.
pub(crate) struct JobHandler {
    spec: QueueSpec,
    runner: Arc<dyn JobRunner>,
    timeout: Option<Duration>,
    publisher: Publisher,
    namespace: Namespace,
    backoff: RetryPolicy,
    /// The user of the connection: the only `user_id` that the broker accepts in a message.
    user: Option<String>,
    counters: Arc<Counters>,
    meters: JobMeters,
    hooks: Hooks,
    stop: watch::Sender<StopSignal>,
    unacked: UnackedJobs,
}

impl JobHandler {
    pub(crate) fn new(
        connection: &Connection,
        spec: QueueSpec,
        runner: Arc<dyn JobRunner>,
        timeout: Option<Duration>,
    ) -> Self {
        Self {
            meters: JobMeters::new(connection, &spec.name, runner.kind(), runner.tasks()),
            hooks: connection.hooks().clone(),
            spec,
            runner,
            timeout,
            publisher: Publisher::without_size_limit(connection),
            namespace: connection.namespace().clone(),
            backoff: connection.backoff().clone(),
            user: connection.user().map(str::to_owned),
            counters: connection.counters(),
            stop: watch::Sender::new(StopSignal::default()),
            unacked: UnackedJobs::new(),
        }
    }

    /// Runs the job. Its arguments are moved into the job before the future is made, which keeps the
    /// future small.
    fn run(
        &self,
        channel: &Arc<Channel>,
        (message, tag): (&IncomingMessage, u64),
        head: JobHead,
        attempt: u32,
    ) -> impl Future<Output = Verdict> + Send + use<'_> {
        let method = self.runner.method(head.task.as_deref());
        let limit = method.and_then(MethodDescriptor::timeout).or(self.timeout);
        let now = Instant::now();
        let times = limit.map_or_else(Times::default, |limit| {
            Times::new(now, Some(clock::deadline(now, limit)))
        });
        let arrived = Arrived::new(now, message.redelivered, head.sent_at);
        let metered = self.meters.of(method).start(arrived);
        let info = head.into_info(message, attempt);
        let conversation = message.properties.correlation_id.as_deref();
        let span = MessageSpan::process(&self.hooks, &self.spec.name, &info, tag, conversation);
        let context = Context::of(Invocation {
            span,
            service: Some(self.spec.name.clone().into()),
            method: None,
            times,
            message: info,
            cancel: None,
            extensions: Extensions::default(),
        });
        let job = RawJob {
            body: message.body.clone(),
            context: context.clone(),
            cancellation: Cancellation::new(channel, self.stop.subscribe()),
        };
        let ended = context.clone();
        let running = context.handler(|| self.runner.run(job));
        // `map` instead of an `async` block, which would store `running` twice.
        guard(ended.deadline(), running).map(move |end| {
            let verdict = Verdict::of_end(end, limit);
            metered.ended(verdict.handler_outcome(), ended.telemetry());
            // Layers pass on a panic and a missed deadline as a verdict.
            match &verdict.0 {
                Judgement::TimedOut { .. } => ended.stopped(),
                Judgement::Panicked { text } => {
                    self.counters.panics.add();
                    ended.panicked(text);
                }
                _ => ended.ended(verdict.outcome_name()),
            }
            verdict
        })
    }

    /// Reads a delivery and decides whether its job is run.
    fn admit(&self, message: &IncomingMessage) -> Admission {
        let head = JobHead::read(&message.properties);
        let counted_by_broker = self.spec.kind == QueueKind::Quorum || head.unsettled > 0;
        let history = self.unacked.history(message, counted_by_broker);
        if history.is_done {
            let (queue, message_id) =
                (self.spec.name.as_str(), escaped(head.message_id.as_deref()));
            tracing::info!(
                queue,
                message_id,
                "job was redelivered after its acknowledgement timed out, and was done by then: \
                 acknowledged without running it again"
            );
            return Admission::Decided(Decision::Ack, head.attempt);
        }
        // A delivery that ended with the acknowledgement timeout is no failed attempt.
        let unsettled = head.unsettled.saturating_sub(history.timed_out);
        let attempt = head.attempt.saturating_add(unsettled);
        let arrival = Arrival {
            attempt,
            redelivered: message.redelivered && (counted_by_broker || history.timed_out == 0),
            counted_by_broker,
        };
        let policy = &self.spec.retry;
        match settle::before(arrival, policy) {
            // A quorum queue has counted this delivery too, which is not run any more.
            Some(decision) => Admission::Decided(decision, attempt.min(policy.max_attempts())),
            None => Admission::Run(head, attempt),
        }
    }

    /// Carries a decision out, with all that is done when the broker refuses the copy.
    async fn apply(
        &self,
        channel: &Channel,
        decision: Decision,
        attempt: u32,
        message: IncomingMessage,
    ) -> Settlement {
        let moved = self.try_apply(channel, decision, attempt, &message);
        let error = match moved.await {
            Ok(settlement) => return settlement,
            Err(error) => error,
        };
        // The headers may be the reason: another program can send larger ones than fit into the
        // frames that Lepus agreed on with the broker.
        let decision = Decision::DeadLetter {
            reason: Reason::Rejected,
            error: format!(
                "it was moved here without its headers, with them it is refused: {error}"
            ),
        };
        let mut without_headers = message;
        without_headers.properties.headers = Table::new();
        without_headers.properties.trace = TraceHeaders::new();
        let moved = self.try_apply(channel, decision, attempt, &without_headers);
        match moved.await {
            Ok(settlement) => settlement,
            Err(error) => {
                self.settle_unmovable(channel, &without_headers, &error)
                    .await
            }
        }
    }

    /// Settles a job that the broker accepts neither for another attempt nor as a dead letter, such
    /// as one that is larger than the broker's limit, which was lowered since.
    async fn settle_unmovable(
        &self,
        channel: &Channel,
        message: &IncomingMessage,
        error: &Error,
    ) -> Settlement {
        let queue = self.spec.name.as_str();
        let message_id = escaped(message.properties.message_id.as_deref());
        // The broker does not check its limits when it dead-letters a message by itself.
        if self.spec.has_dead_letter_exchange() {
            tracing::error!(
                queue,
                message_id,
                %error,
                "broker refuses a job for a retry and as a dead letter: it is rejected, and the \
                 broker moves it to the dead-letter queue without its error"
            );
            self.moved(message, true);
            return Settlement::Reject;
        }
        let pause = self.backoff.jittered(MANY_FAILURES, random::fraction());
        tracing::error!(
            queue,
            message_id,
            %error,
            ?pause,
            "broker refuses a job for a retry and as a dead letter, and Lepus knows of no \
             dead-letter exchange of its queue: it goes back to its queue after a pause"
        );
        self.pause(channel, pause).await;
        Settlement::Requeue
    }

    /// Waits, but no longer than until the pool is stopped or the channel is closed.
    async fn pause(&self, channel: &Channel, pause: Duration) {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            _ = channel.down() => {}
            _ = stop.wait_for(|stop| stop.is_draining || !channel.is_open()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Publishes the copy that a decision asks for, and returns how the original is to be settled.
    ///
    /// # Errors
    /// The broker can never accept the copy. A lost connection or a full queue is no such error: the
    /// publish is repeated then.
    async fn try_apply(
        &self,
        channel: &Channel,
        decision: Decision,
        attempt: u32,
        message: &IncomingMessage,
    ) -> Result<Settlement, Error> {
        let queue = self.spec.name.as_str();
        let properties = || message.properties.clone();
        let (exchange, routing_key) = (&message.exchange, &message.routing_key);
        let (destination, properties, is_dead) = match decision {
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
                    "job failed, retrying it"
                );
                let mut properties = envelope::retried(properties(), attempt, &error);
                SourceRoute::record(exchange, routing_key, &mut properties);
                // A queue with a limit may be full. It would refuse the copy again and again while
                // this job occupies the worker. A delay queue has no limit.
                let destination = if delay.is_zero() && self.spec.max_length.is_none() {
                    self.spec.main()?
                } else {
                    let delay = delay.max(MIN_DELAY);
                    properties.expiration = Some(envelope::expiration(delay));
                    self.spec.delayed(delay)?
                };
                (destination, properties, false)
            }
            Decision::DeadLetter { reason, error } => {
                tracing::warn!(
                    queue,
                    attempt,
                    reason = reason.as_str(),
                    error = %Escaped(&error),
                    "job failed for good, moving it to the dead-letter queue"
                );
                let record = self.death_record(reason, error, attempt);
                let mut properties = record.write(properties());
                SourceRoute::record(exchange, routing_key, &mut properties);
                (self.spec.dead()?, properties, true)
            }
        };
        let copied = self.publish_copy(channel, destination, properties, &message.body);
        Ok(match copied.await? {
            Copied::Confirmed => {
                self.moved(message, is_dead);
                Settlement::Ack
            }
            // The original cannot be settled any more: the broker delivers it again.
            Copied::OriginalLost => Settlement::Settled,
            Copied::Stopping => Settlement::Requeue,
        })
    }

    /// Counts a job that was moved to another queue.
    fn moved(&self, message: &IncomingMessage, is_dead: bool) {
        if is_dead {
            self.counters.dead_lettered.add();
        } else {
            self.counters.retried.add();
        }
        let method = self.runner.method(message.properties.kind.as_deref());
        self.meters.of(method).moved(is_dead);
    }

    fn death_record(&self, reason: Reason, error: String, attempts: u32) -> DeathRecord {
        DeathRecord {
            reason: reason.as_str().to_owned(),
            error,
            first_error: None,
            attempts,
            source_queue: self.spec.name.clone(),
            failed_at: clock::unix_seconds(),
            route: None,
        }
    }

    /// Publishes a copy of a job until it is confirmed, or until the broker has taken the original
    /// back.
    ///
    /// The original is acknowledged only after the confirm: a crash in between leaves the job in both
    /// queues, and the opposite order would leave it in none.
    async fn publish_copy(
        &self,
        channel: &Channel,
        queue: Queue,
        properties: Properties,
        body: &bytes::Bytes,
    ) -> Result<Copied, Error> {
        let name = self.namespace.scope(queue.name().as_str());
        let target = Target {
            service: self.spec.name.as_str().into(),
            method: properties.kind.as_deref().unwrap_or_default().into(),
            queue: name.as_str().into(),
        };
        let on_missing = self.spec.on_missing(Topology::queue(queue));
        let message = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key: name,
            mandatory: true,
            properties: self.prepare_copy(properties),
            body: body.clone(),
        });
        let mut backoff = Backoff::new(&self.backoff);
        let (started, mut last_report) = (Instant::now(), None);
        loop {
            // With its channel gone, the broker delivers the original again, and a copy would double
            // the job.
            if !channel.is_open() {
                return Ok(Copied::OriginalLost);
            }
            let publisher = &self.publisher;
            let publish = publisher.publish_or_declare(Arc::clone(&message), TIMEOUT, &on_missing);
            let published = publish.await;
            let error = match published.map_err(|failure| failure.into_error(&target)) {
                Ok(()) => return Ok(Copied::Confirmed),
                Err(error) if refusal::is_final(&error) => return Err(error),
                Err(error) => error,
            };
            // A shutdown does not wait for further tries: the broker still has the original.
            if self.stop.borrow().is_draining {
                tracing::warn!(
                    queue = &*target.queue,
                    %error,
                    "job cannot be moved to another queue, and goes back to its own because the \
                     worker is stopping"
                );
                return Ok(Copied::Stopping);
            }
            let pause = backoff.next(random::fraction());
            let elapsed = started.elapsed();
            match last_report {
                None => {
                    tracing::error!(
                        queue = &*target.queue,
                        %error,
                        "job cannot be moved to another queue, retrying"
                    );
                    last_report = Some(elapsed);
                }
                Some(last) if elapsed.saturating_sub(last) >= REPORT_INTERVAL => {
                    tracing::warn!(
                        queue = &*target.queue,
                        %error,
                        ?elapsed,
                        failures = backoff.failures(),
                        "job still cannot be moved to another queue, retrying"
                    );
                    last_report = Some(elapsed);
                }
                Some(_) => {}
            }
            self.pause(channel, pause).await;
        }
    }

    /// Makes properties fit for a copy, which has another publisher than the original. It needs a
    /// `message_id`, which messages of other programs may lack, because returned messages
    /// (`basic.return`) are recognized by it.
    fn prepare_copy(&self, mut properties: Properties) -> Properties {
        envelope::replace_user_id(&mut properties, self.user.as_deref());
        properties.message_id.get_or_insert_with(random::identity);
        properties
    }
}

/// The decision on a delivery before its job is run.
enum Admission {
    /// The job is not run. The number is its attempts so far.
    Decided(Decision, u32),
    /// The job is run, and this is the attempt.
    Run(JobHead, u32),
}

/// The result of publishing a copy of a job.
enum Copied {
    /// The broker has confirmed the copy.
    Confirmed,
    /// The channel of the original is closed, so that the broker delivers the original again.
    OriginalLost,
    /// There is no copy, and the pool is stopping.
    Stopping,
}

impl Handler for JobHandler {
    /// Not an `async fn`, whose future would store the delivery twice.
    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        mut delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send {
        self.spec.remove_untrusted_headers(&mut delivery.message);
        async move {
            // The head is moved out of the match and not borrowed, because a borrow would keep the
            // whole `Admission` in this future.
            let (head, attempt) = match self.admit(&delivery.message) {
                Admission::Run(head, attempt) => (head, attempt),
                Admission::Decided(decision, attempt) => {
                    let applied = self.apply(&channel, decision, attempt, delivery.message);
                    return Box::pin(applied).await;
                }
            };
            // Tracked until this future ends: an acknowledgement timeout while the result is
            // published counts as well.
            let unacked = self.unacked.track(&channel, &delivery.message);
            let running = self.run(&channel, (&delivery.message, delivery.tag), head, attempt);
            let verdict = running.await;
            match verdict.0 {
                Judgement::Done => unacked.finished(true),
                Judgement::Failed { .. }
                | Judgement::Undecodable { .. }
                | Judgement::TimedOut { .. }
                | Judgement::Panicked { .. } => unacked.finished(false),
                Judgement::Requeue | Judgement::UnknownTask { .. } => {}
            }
            let decision = settle::after(verdict, attempt, &self.spec.retry, random::fraction());
            if matches!(decision, Decision::Ack) {
                return Settlement::Ack;
            }
            // Boxed, because it is rare and much larger than the rest of this future.
            Box::pin(self.apply(&channel, decision, attempt, delivery.message)).await
        }
    }

    fn drain(&self) {
        self.stop.send_modify(|stop| stop.is_draining = true);
    }

    fn lost(&self, queue: &str, channel: &Arc<Channel>, error: &Error) {
        report_loss(queue, error);
        if let Some(timeout) = refusal::overdue(error) {
            self.unacked.channel_timed_out(channel, timeout);
        }
        self.stop.send_modify(|stop| stop.lost_channels += 1);
    }

    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        self.unacked.warn_before_timeout(&self.spec.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;
    use crate::worker::handle_delivery;

    /// There is one for each job, moved to the heap, and the allocator is slow beyond 1 KiB.
    #[test]
    fn the_future_of_a_job_stays_small() {
        type JobArguments = (Arc<JobHandler>, Arc<Counters>, Arc<Channel>, Delivery);
        let work = size_of_future(|(handler, counters, channel, delivery): JobArguments| {
            handle_delivery(handler, counters, channel, delivery)
        });
        assert!(work <= 1024, "{work}");
    }
}
