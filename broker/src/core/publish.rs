//! A message comes in: where it goes, and what the publisher hears of it.

use std::{collections::BTreeSet, sync::Arc};

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{text, type_name},
    core::{
        Action, Content, Core, Head, Now, Outcome, Publish,
        deadletter::Reason,
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

/// Whether every queue took the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
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
        self.note_publisher(id);
        if publish.immediate {
            return Err(not_implemented("immediate=true"));
        }
        let exchange = self.publish_exchange(id, &publish.exchange)?;
        let properties = self.check_properties(id, number, publish.properties)?;
        let confirm = self
            .channel_mut(id, number)
            .and_then(|channel| channel.confirm.as_mut())
            .map(|confirm| {
                confirm.published += 1;
                confirm.published
            });
        let headers = if properties.has(Property::Headers) {
            properties.headers()
        } else {
            None
        };
        if let Some(headers) = &headers {
            check_copies(headers)?;
        }
        let vhost = self.vhost_of(id)?;
        let mut routed = route_all(vhost, &exchange, &publish.routing_key, headers.as_ref());
        let properties = match headers {
            Some(headers) if headers.contains_key("BCC") => {
                properties.with_headers(&without(&headers, "BCC"))
            }
            _ => properties,
        };
        let message = Arc::new(Message::new(
            exchange,
            publish.routing_key,
            properties,
            publish.body,
            &self.gauge,
        ));
        let replied = self.reply(&message);
        if routed.is_empty() && publish.mandatory && !replied {
            let head = Head::Return {
                code: 312,
                text: "NO_ROUTE",
            };
            self.act(
                id,
                Action::Content(
                    number,
                    Content {
                        head,
                        message: message.clone(),
                        returns: None,
                    },
                ),
            );
        }
        let mut taken = Taken::ByAll;
        for queue in routed.drain(..) {
            if self.enqueue(now, queue, &message) == Taken::NotByAll {
                taken = Taken::NotByAll;
            }
        }
        if let Some(tag) = confirm {
            let outcome = if taken == Taken::ByAll {
                Outcome::Ack
            } else {
                Outcome::Nack
            };
            self.confirm(id, number, tag, outcome);
        }
        Ok(())
    }

    /// The exchange's own name, so that messages share it.
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

    /// Hands a message to the direct reply consumer it is addressed to, if it is.
    fn reply(&mut self, message: &Arc<Message>) -> bool {
        if !message.exchange.is_empty() {
            return false;
        }
        let Some(token) = reply_token(&message.routing_key) else {
            return false;
        };
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
                returns: None,
            },
        );
        true
    }

    /// Puts a message into one queue, within its limits.
    fn enqueue(&mut self, now: Now, id: QueueId, message: &Arc<Message>) -> Taken {
        let Some(queue) = self.queues.get_mut(&id) else {
            return Taken::ByAll;
        };
        if queue.refuses() {
            if queue.settings.overflow == Overflow::RejectPublishDeadLetter {
                self.dead_letter(id, message.clone(), Reason::MaxLength);
            }
            return Taken::NotByAll;
        }
        let first = queue.ready() == 0;
        queue.push(message.clone(), now.instant);
        self.entries += 1;
        // Somebody who waits gets it even if it may not wait itself.
        if !(first && self.deliver_one(id)) {
            self.dispatch(now, id);
        }
        Taken::ByAll
    }

    /// Routes a message that the broker itself publishes.
    pub(super) fn republish(&mut self, now: Now, message: Message, queues: Vec<QueueId>) {
        let message = Arc::new(message);
        self.reply(&message);
        for queue in queues {
            self.enqueue(now, queue, &message);
        }
    }

    /// Tells a publisher how its message fared, unless a fault interferes.
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

/// All queues that a message reaches, each once: by its key, and by the keys in its
/// `CC` and `BCC` headers.
pub(super) fn route_all(
    vhost: &Vhost,
    exchange: &Name,
    key: &str,
    headers: Option<&FieldTable>,
) -> Vec<QueueId> {
    if exchange.is_empty() && headers.is_none() {
        return vhost.queues.get(key).copied().into_iter().collect();
    }
    let mut found = Vec::new();
    route(vhost, exchange, key, headers, &mut found);
    for more in headers.into_iter().flat_map(|headers| {
        ["CC", "BCC"]
            .into_iter()
            .flat_map(|name| copy_keys(headers, name))
    }) {
        route(vhost, exchange, &more, headers, &mut found);
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

/// `CC` and `BCC` must be lists of keys.
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

/// Follows bindings from exchange to exchange, each visited once; an exchange that
/// routes nowhere hands over to its alternate.
fn route(
    vhost: &Vhost,
    exchange: &Name,
    key: &str,
    headers: Option<&FieldTable>,
    found: &mut Vec<QueueId>,
) {
    let mut seen = BTreeSet::new();
    let mut open = vec![exchange];
    while let Some(name) = open.pop() {
        if name.is_empty() {
            found.extend(vhost.queues.get(key).copied());
            continue;
        }
        if !seen.insert(name) {
            continue;
        }
        let Some(exchange) = vhost.exchanges.get(name) else {
            continue;
        };
        let mut matched = false;
        exchange.matches(key, headers, |destination| {
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
