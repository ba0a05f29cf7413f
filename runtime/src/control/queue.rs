//! Control queue of an instance: declared on each session while something is served, bound by the names of what
//! is, and consumed without acknowledgements; each question is answered when it comes.
//!
//! All of it is on channels of its own, because the broker closes a channel over a missing permission.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::ServedKind;
use super::instance::{Instance, Served};
use super::refusal::ControlRefusal;
use super::respond::Responder;
use crate::cancel_table::CancelTable;
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::link::{
    self, Channel, Connection, ConsumeMode, Consumer, ConsumerEnd, Delivery, DeliveryCallback,
    Flush, IdleCheck, Link, Namespace, Session, WeakConnection,
};
use crate::policy::backoff::Backoff;
use crate::publish::CachedChannel;
use crate::random;
use crate::wire::batch::{self, MAX_CANCELLED_IDS};
use crate::wire::envelope::{self, AnswerHead, CONTROL_EXCHANGE, CancelHead, QuestionHead};
use crate::wire::message::{IncomingMessage, Outgoing};
use crate::wire::name::Name;
use crate::wire::reply_code;
use crate::wire::topology::{Binding, Destination, Exchange, ExchangeKind, Queue, Topology};
use crate::wire::value::Table;

/// The most questions that wait in the queue, and the most that wait here. The oldest ones in the queue are
/// dropped, because their askers have waited longest.
const MAX_QUESTIONS: u32 = 1000;
/// The largest body of a message, in bytes. Questions have none; this is enough for as many of the longest
/// correlation ids as one message has.
const MAX_BODY: usize = MAX_CANCELLED_IDS * 258 + 8;
/// The longest that an answer waits for a connection which takes messages.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A question, and the time at which it came.
type ReceivedQuestion = (Instant, IncomingMessage);

/// The task of an instance's control queue.
pub(super) struct ControlQueue {
    instance: Arc<Instance>,
    responder: Responder,
    /// The requests that callers give up.
    cancels: Arc<CancelTable>,
    refusal: Arc<ControlRefusal>,
    /// Not a connection, which would never be dropped: it is kept open by its users alone.
    connection: WeakConnection,
    link: Link,
    namespace: Namespace,
    queue: Name,
    backoff: Backoff,
    app_id: Option<String>,
    max_message: usize,
    /// For the answers of an instance without a service.
    publishing: CachedChannel<Channel>,
}

impl ControlQueue {
    /// Starts the task, unless it was started for this connection before.
    ///
    /// # Errors
    /// None in practice: the name of the queue is valid.
    pub(super) fn start(connection: &Connection, instance: &Arc<Instance>) -> Result<(), Error> {
        if instance.is_started.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let task = Self {
            responder: Responder::new(connection, &instance.id),
            cancels: connection.shared(CancelTable::default),
            refusal: connection.shared(ControlRefusal::default),
            connection: connection.downgrade(),
            link: connection.consuming().clone(),
            namespace: connection.namespace().clone(),
            queue: Name::parse(envelope::control_queue(&instance.id))?,
            instance: Arc::clone(instance),
            backoff: Backoff::new(connection.backoff()),
            app_id: connection.given_name().map(str::to_owned),
            max_message: connection.max_message(),
            publishing: CachedChannel::default(),
        };
        connection.tasks().spawn(task.run());
        Ok(())
    }

    /// Runs until the connection is closed, or until the broker refuses.
    async fn run(mut self) {
        let mut served = self.instance.watch();
        loop {
            let something_is_served = async {
                // Cannot fail: the instance holds the sender.
                let _ = served.wait_for(|served| !served.is_empty()).await;
            };
            tokio::select! {
                () = something_is_served => {}
                () = self.link.closed() => return,
            }
            let Ok(session) = self.link.session().await else {
                return;
            };
            let started = Instant::now();
            let error = match self.serve(&session).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            if error.is_closed() {
                return;
            }
            if ControlRefusal::is(&error) {
                self.refusal.report(&error);
                return;
            }
            // The queue is exclusive to the connection before a reconnect, whose end the broker has not noticed yet.
            if error.amqp_code() == Some(reply_code::RESOURCE_LOCKED) {
                tracing::debug!(%error, "control queue is still locked by the connection before, trying again");
            } else {
                tracing::debug!(%error, "control queue was lost, setting it up again");
            }
            self.backoff.reset_if_stable(started.elapsed());
            if session.is_up() {
                tokio::time::sleep(self.backoff.next(random::fraction())).await;
            }
        }
    }

    /// Answers questions on this session. Returns when nothing is served any more.
    ///
    /// # Errors
    /// The reason why no more questions come.
    async fn serve(&self, session: &Arc<Session>) -> Result<(), Error> {
        let mut served = self.instance.watch();
        let mut keys = keys(&self.instance);
        let mut topology = self.bindings(&keys)?;
        let queue = Queue::exclusive(self.queue.clone()).drop_oldest(MAX_QUESTIONS);
        topology.queues.push(queue);
        link::declare(session, &topology, &self.namespace).await?;
        let channel = Channel::open(session).await?;
        channel.limit_bodies(MAX_BODY);
        let (sender, mut questions) = mpsc::channel(MAX_QUESTIONS as usize);
        let name = self.namespace.scope(self.queue.as_str());
        let mode = ConsumeMode::NoAck(receive(sender, Arc::clone(&self.cancels)));
        let check = self.restore_bindings(session);
        let mut consumer = Consumer::start(&channel, &name, mode, Some(check)).await?;
        tracing::debug!(queue = name, "consuming the control queue");
        loop {
            tokio::select! {
                biased;
                end = consumer.next() => match end {
                    // Questions go to the callback instead.
                    Ok(_) => {}
                    Err(ConsumerEnd::Cancelled) => {
                        let lost = Error::new(ErrorKind::Disconnected);
                        return Err(lost.caused_by("the control queue was deleted"));
                    }
                    Err(ConsumerEnd::Lost(error)) => return Err(error),
                },
                // Cannot fail: the instance holds the sender.
                _ = served.changed() => {
                    let now = self::keys(&self.instance);
                    if now.is_empty() {
                        let queue = std::slice::from_ref(&self.queue);
                        return link::delete(session, queue, &self.namespace).await;
                    }
                    for binding in self.bindings(&now)?.bindings.iter().filter(|it| !keys.contains(&it.routing_key)) {
                        link::bind(session, binding, &self.namespace).await?;
                    }
                    for binding in self.bindings(&keys)?.bindings.iter().filter(|it| !now.contains(&it.routing_key)) {
                        link::unbind(session, binding, &self.namespace).await?;
                    }
                    keys = now;
                }
                Some((received_at, question)) = questions.recv() => {
                    self.answer(&channel, received_at, question).await;
                }
            }
        }
    }

    /// The exchange, and the bindings of the queue by these keys.
    fn bindings(&self, keys: &BTreeSet<String>) -> Result<Topology, Error> {
        bindings(&self.queue, keys)
    }

    /// The check of the idle queue: declares the exchange and the bindings again, which an operator may have
    /// deleted.
    fn restore_bindings(&self, session: &Arc<Session>) -> IdleCheck {
        let (session, namespace): (Weak<Session>, _) =
            (Arc::downgrade(session), self.namespace.clone());
        let (queue, instance) = (self.queue.clone(), Arc::clone(&self.instance));
        Arc::new(move || {
            let (session, namespace) = (session.upgrade(), namespace.clone());
            let topology = bindings(&queue, &keys(&instance));
            Box::pin(async move {
                match session {
                    Some(session) => link::declare(&session, &topology?, &namespace).await,
                    None => Ok(()),
                }
            })
        })
    }

    /// Answers a question: one message for each thing that it is about.
    async fn answer(
        &self,
        channel: &Arc<Channel>,
        received_at: Instant,
        question: IncomingMessage,
    ) {
        let served: Vec<Arc<Served>> = self.instance.served();
        // A question through the default exchange is to this instance.
        let is_narrow = !question.exchange.is_empty();
        let key = question.routing_key;
        let Some(head) = QuestionHead::from_properties(question.properties) else {
            tracing::debug!(
                "message on the control queue is no question that is known here, dropped"
            );
            return;
        };
        let window = head.time_left.unwrap_or(MAX_WAIT).min(MAX_WAIT);
        let deadline = clock::deadline(received_at, window);
        let has_service = served
            .iter()
            .any(|served| served.kind == ServedKind::Service);
        let answering = self.answering_channel(channel, has_service);
        let answering = match tokio::time::timeout_at(deadline, answering).await {
            Ok(Ok(answering)) => answering,
            Ok(Err(error)) => {
                tracing::debug!(%error, "question not answered");
                return;
            }
            Err(_) => {
                tracing::debug!(
                    "question not answered: the broker took no messages within its window"
                );
                return;
            }
        };
        for served in served
            .iter()
            .filter(|served| !is_narrow || served.is_meant_by(&key))
        {
            let body = match self.responder.answer(head.kind, served) {
                Ok(body) if body.len() <= self.max_message => body,
                Ok(body) => {
                    let (name, bytes) = (served.name.as_str(), body.len());
                    tracing::warn!(
                        name,
                        bytes,
                        "answer about a service is larger than the limit, not sent"
                    );
                    continue;
                }
                Err(error) => {
                    let name = served.name.as_str();
                    tracing::warn!(name, %error, "answer about a service cannot be encoded, not sent");
                    continue;
                }
            };
            let properties = AnswerHead {
                kind: head.kind,
                correlation_id: head.correlation_id.clone(),
                answerer: self.app_id.clone(),
            };
            let message = Outgoing {
                exchange: String::new(),
                routing_key: head.reply_to.clone(),
                mandatory: true,
                properties: properties.into_properties(),
                body,
            };
            // The consumer of the queue tells why, if it is its channel.
            if let Err(error) = answering.publish(&message, Flush::Deferred) {
                tracing::debug!(%error, "question not answered");
                return;
            }
        }
        answering.flush(Flush::Inline);
    }

    /// The channel for answers: that of the queue, if a service is served, whose replies are published on the same
    /// connection. The connection that worker pools and subscriptions consume from publishes nothing, so that
    /// acknowledgements go on under an alarm.
    async fn answering_channel(
        &self,
        own: &Arc<Channel>,
        has_service: bool,
    ) -> Result<Arc<Channel>, Error> {
        if has_service {
            own.session().writable().await;
            return Ok(Arc::clone(own));
        }
        if let Some(channel) = self.publishing.get() {
            channel.session().writable().await;
            return Ok(channel);
        }
        let connection = self.connection.upgrade();
        let connection = connection.ok_or_else(|| Error::new(ErrorKind::Closed))?;
        let open = |session: Arc<Session>, _| async move { Channel::open(&session).await };
        self.publishing
            .get_or_open_on(connection.publishing(), open)
            .await
    }
}

/// The routing keys of questions to this instance; empty if nothing is served. One that is too long for AMQP is
/// left out: the instance is found by questions to all.
fn keys(instance: &Instance) -> BTreeSet<String> {
    let mut keys = instance.keys();
    if !keys.is_empty() {
        keys.insert(envelope::ALL.to_owned());
    }
    keys.retain(|key| {
        let is_valid = Name::parse(key.as_str()).is_ok();
        if !is_valid {
            tracing::debug!(
                key,
                "name is too long to be asked for by questions to instances"
            );
        }
        is_valid
    });
    keys
}

fn bindings(queue: &Name, keys: &BTreeSet<String>) -> Result<Topology, Error> {
    let exchange = Name::parse(CONTROL_EXCHANGE)?;
    let bindings = keys.iter().map(|key| Binding {
        exchange: exchange.clone(),
        destination: Destination::Queue(queue.clone()),
        routing_key: key.clone(),
        arguments: Table::new(),
    });
    Ok(Topology {
        bindings: bindings.collect(),
        exchanges: vec![Exchange::new(exchange, ExchangeKind::Direct)],
        queues: Vec::new(),
    })
}

/// Receives questions on the I/O task. Messages about calls that were given up are handled there at once.
fn receive(sender: mpsc::Sender<ReceivedQuestion>, cancels: Arc<CancelTable>) -> DeliveryCallback {
    Arc::new(move |delivery: Delivery| {
        if CancelHead::is_in(&delivery.message.properties) {
            return cancel(&cancels, delivery.message);
        }
        let question = (Instant::now(), delivery.message);
        if sender.try_send(question).is_err() {
            tracing::debug!("question dropped: too many wait for their answers");
        }
    })
}

/// Stops the handlers of the calls that a message names, and remembers those that have not begun.
fn cancel(cancels: &CancelTable, message: IncomingMessage) {
    let Some(head) = CancelHead::from_properties(message.properties) else {
        tracing::debug!("message that gives calls up has no reply_to or no expiration, dropped");
        return;
    };
    match batch::decode_cancelled(&message.body) {
        Ok(ids) => {
            tracing::debug!(calls = ids.len(), "callers have given calls up");
            let expires = clock::deadline(Instant::now(), head.time_left);
            cancels.cancel(&head.reply_to, ids, expires);
        }
        Err(error) => {
            tracing::debug!(%error, "message that gives calls up does not decode, dropped");
        }
    }
}
