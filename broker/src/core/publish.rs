//! Publishing (`basic.publish`): routing, returns (`basic.return`) and confirms (`basic.ack`,
//! `basic.nack`).

use std::{collections::BTreeSet, sync::Arc};

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{text, type_name},
    core::{
        Action, Content, Core, Head, Now, Outcome, Publish,
        connection::Uncommitted,
        dead_letter::Reason,
        queues::{REPLY_TO, reply_token},
        vhost::Vhost,
    },
    exception::{Exception, access_refused, no_exchange, not_implemented, precondition_failed},
    exchange::Destination,
    id::{ConnectionId, Name, QueueId},
    message::{Message, expiration},
    properties::{Properties, Property},
    settings::Overflow,
};

/// Whether every queue has accepted the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enqueued {
    ByAll,
    NotByAll,
}

impl Core {
    pub(super) fn publish(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        publish: Publish,
    ) -> Result<(), Exception> {
        match self.channel_mut(id, number) {
            Some(channel) if !channel.closing => {}
            _ => return Ok(()),
        }
        self.check_not_committing(id, number)?;
        self.pause_if_blocked(id);
        if publish.immediate {
            return Err(not_implemented("immediate=true"));
        }
        self.check_write(id, &publish.exchange)?;
        let exchange = self.publish_exchange(id, &publish.exchange)?;
        let properties = self.check_properties(id, number, publish.properties)?;
        self.published += 1;
        let confirm = self
            .channel_mut(id, number)
            .and_then(|channel| channel.confirm.as_mut())
            .map(|confirm| {
                confirm.published += 1;
                confirm.published
            });
        let mut headers = if properties.has(Property::Headers) {
            properties.headers()
        } else {
            None
        };
        let mut properties = properties;
        let mut copies = Vec::new();
        if let Some(headers) = &mut headers {
            check_copies(headers)?;
            copies = ["CC", "BCC"]
                .into_iter()
                .flat_map(|name| copy_keys(headers, name))
                .collect();
            if headers.contains_key("BCC") {
                *headers = without(headers, "BCC");
                properties = properties.with_headers(headers);
            }
        }
        let message = Arc::new(Message::new(
            exchange,
            publish.routing_key,
            copies,
            properties,
            publish.body,
            &self.gauge,
        ));
        // RabbitMQ delivers a direct reply when it routes the message, before the commit as well.
        let replied = self.reply(&message);
        let mandatory = publish.mandatory && !replied;
        let transactional = self
            .channel(id, number)
            .is_some_and(|channel| channel.transaction.is_some());
        if transactional {
            let queues = self.queue_names(id, &message, headers.as_ref())?;
            let transaction = self
                .channel_mut(id, number)
                .and_then(|channel| channel.transaction.as_mut());
            if let Some(transaction) = transaction {
                transaction.published.push(Uncommitted {
                    message,
                    queues,
                    mandatory,
                });
            }
            return Ok(());
        }
        let routed = route_all(self.vhost_of(id)?, &message, headers.as_ref());
        let taken = self.distribute(now, (id, number), &message, routed, mandatory);
        if let Some(tag) = confirm {
            let outcome = if taken == Enqueued::ByAll {
                Outcome::Ack
            } else {
                Outcome::Nack
            };
            self.confirm(id, number, tag, outcome);
        }
        Ok(())
    }

    /// Puts a message into its queues, or returns it to the publishing channel if it is mandatory and
    /// there are no queues.
    pub(super) fn distribute(
        &mut self,
        now: Now,
        (id, number): (ConnectionId, u16),
        message: &Arc<Message>,
        queues: Vec<QueueId>,
        mandatory: bool,
    ) -> Enqueued {
        if queues.is_empty() && mandatory {
            let head = Head::Return {
                code: 312,
                text: "NO_ROUTE",
            };
            let content = Content {
                head,
                message: message.clone(),
                delivery_count: None,
            };
            self.act(id, Action::Content(number, content));
        }
        let mut taken = Enqueued::ByAll;
        for queue in queues {
            if self.enqueue(now, queue, message) == Enqueued::NotByAll {
                taken = Enqueued::NotByAll;
            }
        }
        taken
    }

    /// The names of the queues that a message of a transaction is routed to. The default exchange
    /// routes to a name even if no such queue exists yet.
    fn queue_names(
        &self,
        id: ConnectionId,
        message: &Message,
        headers: Option<&FieldTable>,
    ) -> Result<Vec<Name>, Exception> {
        if message.exchange.is_empty() {
            let names = message.keys().filter(|key| reply_token(key).is_none());
            let names: BTreeSet<Name> = names.map(Name::from).collect();
            return Ok(names.into_iter().collect());
        }
        let routed = route_all(self.vhost_of(id)?, message, headers);
        let name = |queue| self.queues.get(queue).map(|queue| queue.name.clone());
        Ok(routed.iter().filter_map(name).collect())
    }

    fn check_write(&self, id: ConnectionId, exchange: &str) -> Result<(), Exception> {
        let Some(connection) = self.connections.get(&id) else {
            return Ok(());
        };
        if !connection.writes_denied {
            return Ok(());
        }
        // RabbitMQ's name of the default exchange in permission errors.
        let exchange = if exchange.is_empty() {
            "amq.default"
        } else {
            exchange
        };
        let (user, vhost) = (&connection.client.user, &connection.client.vhost);
        Err(access_refused(format!(
            "access to exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
        )))
    }

    /// The name of an exchange that may be published to, shared with the exchange.
    fn publish_exchange(&self, id: ConnectionId, name: &str) -> Result<Name, Exception> {
        if name.is_empty() {
            return Ok(Name::default());
        }
        let vhost = self.vhost_of(id)?;
        let exchange = vhost
            .exchanges
            .get(name)
            .ok_or_else(|| no_exchange(name, &vhost.name))?;
        if exchange.internal {
            return Err(access_refused(format!(
                "cannot publish to internal exchange '{name}' in vhost '{}'",
                vhost.name
            )));
        }
        Ok(exchange.name.clone())
    }

    fn check_properties(
        &self,
        id: ConnectionId,
        number: u16,
        properties: Properties,
    ) -> Result<Properties, Exception> {
        expiration(&properties).map_err(precondition_failed)?;
        if let Some(user) = properties.value(Property::UserId) {
            let known = self
                .connections
                .get(&id)
                .map(|c| c.client.user.clone())
                .unwrap_or_default();
            if user != known.as_bytes() {
                return Err(precondition_failed(format!(
                    "user_id property set to '{}' but authenticated user was '{known}'",
                    String::from_utf8_lossy(user)
                )));
            }
        }
        if properties.value(Property::ReplyTo) == Some(REPLY_TO.as_bytes()) {
            let reply = self
                .channel(id, number)
                .and_then(|channel| channel.reply.as_ref());
            let Some(reply) = reply else {
                return Err(precondition_failed("fast reply consumer does not exist"));
            };
            return Ok(
                properties.with_text(Property::ReplyTo, &format!("{REPLY_TO}.{}", reply.token))
            );
        }
        Ok(properties)
    }

    /// Delivers a message once to each consumer of direct reply-to that it is addressed to. Returns
    /// whether there are any.
    fn reply(&mut self, message: &Arc<Message>) -> bool {
        if !message.exchange.is_empty() {
            return false;
        }
        let tokens: BTreeSet<&str> = message.keys().filter_map(reply_token).collect();
        let mut replied = false;
        for token in tokens {
            replied |= self.reply_to(token, message);
        }
        replied
    }

    fn reply_to(&mut self, token: &str, message: &Arc<Message>) -> bool {
        let Some(&(id, number)) = self.replies.get(token) else {
            return false;
        };
        let Some(channel) = self.channel_mut(id, number) else {
            return false;
        };
        let Some(tag) = channel.reply.as_ref().map(|reply| reply.tag.clone()) else {
            return false;
        };
        channel.last_tag += 1;
        let head = Head::Deliver {
            consumer: tag,
            tag: channel.last_tag,
            redelivered: false,
        };
        self.deliver_content(
            id,
            number,
            Content {
                head,
                message: message.clone(),
                delivery_count: None,
            },
        );
        true
    }

    /// Puts a message into a queue, unless a limit makes the queue reject it.
    fn enqueue(&mut self, now: Now, id: QueueId, message: &Arc<Message>) -> Enqueued {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Enqueued::ByAll;
        };
        if queue.rejects() {
            if queue.settings.overflow == Overflow::RejectPublishDeadLetter {
                self.dead_letter(id, message.clone(), Reason::MaxLength);
            }
            return Enqueued::NotByAll;
        }
        let first = queue.ready() == 0;
        queue.push(message.clone(), now.instant);
        self.entries += 1;
        // A waiting consumer gets the message even if its time to live is zero.
        if !(first && self.deliver_one(id)) {
            self.dispatch(now, id);
        }
        Enqueued::ByAll
    }

    /// Puts a message that the broker itself publishes into its queues.
    pub(super) fn republish(&mut self, now: Now, message: Message, queues: Vec<QueueId>) {
        let message = Arc::new(message);
        self.reply(&message);
        for queue in queues {
            self.enqueue(now, queue, &message);
        }
    }

    /// Sends the confirm of a message, unless a fault nacks or withholds it.
    fn confirm(&mut self, id: ConnectionId, channel: u16, tag: u64, mut outcome: Outcome) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.confirms.nacks > 0 {
            connection.confirms.nacks -= 1;
            outcome = Outcome::Nack;
        }
        if connection.confirms.withheld {
            let confirm = connection
                .channels
                .get_mut(&channel)
                .and_then(|c| c.confirm.as_mut());
            if let Some(confirm) = confirm {
                confirm.withheld.push((tag, outcome));
            }
            return;
        }
        self.act(
            id,
            Action::Confirm {
                channel,
                tag,
                outcome,
            },
        );
    }
}

/// All queues that a message is routed to, each once.
pub(super) fn route_all(
    vhost: &Vhost,
    message: &Message,
    headers: Option<&FieldTable>,
) -> Vec<QueueId> {
    let mut found = Vec::new();
    if message.exchange.is_empty() {
        found.extend(message.keys().filter_map(|key| vhost.queues.get(key)));
    } else {
        let keys: Vec<&str> = message.keys().collect();
        route(vhost, &message.exchange, &keys, headers, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The routing keys in a `CC` or `BCC` header.
pub(super) fn copy_keys(headers: &FieldTable, name: &str) -> Vec<String> {
    match headers.inner().get(name) {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().iter().filter_map(text).collect(),
        _ => Vec::new(),
    }
}

/// Checks that the headers `CC` and `BCC` are arrays.
fn check_copies(headers: &FieldTable) -> Result<(), Exception> {
    for name in ["CC", "BCC"] {
        match headers.inner().get(name) {
            None | Some(AMQPValue::FieldArray(_)) => {}
            Some(other) => {
                return Err(precondition_failed(format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                    type_name(other)
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn without(headers: &FieldTable, name: &str) -> FieldTable {
    let mut rest = headers.inner().clone();
    rest.remove(name);
    rest.into()
}

/// Follows the bindings from exchange to exchange. Each exchange is visited once, with all keys, and
/// one without a matching binding passes the message to its alternate exchange. The default exchange
/// has no bindings, so it routes nothing as an alternate exchange.
fn route(
    vhost: &Vhost,
    exchange: &Name,
    keys: &[&str],
    headers: Option<&FieldTable>,
    found: &mut Vec<QueueId>,
) {
    let mut seen = BTreeSet::new();
    let mut open = vec![exchange];
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        let Some(exchange) = vhost.exchanges.get(name) else {
            continue;
        };
        let mut matched = false;
        exchange.matches(keys, headers, |destination| {
            matched = true;
            match destination {
                Destination::Queue(queue) => found.push(*queue),
                Destination::Exchange(next) => open.push(next),
            }
        });
        if !matched && let Some(alternate) = &exchange.alternate {
            open.push(alternate);
        }
    }
}
