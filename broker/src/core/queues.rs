//! Methods of class `queue`: declaration, binding, purge and deletion.

use amq_protocol::{
    protocol::{AMQPClass, queue},
    types::ShortString,
};

use crate::{
    arguments::{short, stripped},
    core::{Core, Now, exchanges::refuse_default},
    exception::{Code, Exception, access_refused, locked_queue, no_queue, precondition_failed},
    exchange::Destination,
    id::{ConnectionId, Name, QueueId},
    octets,
    queue::Queue,
    settings::{Settings, is_quorum},
};

/// The pseudo-queue of direct reply-to, which is also the prefix of its addresses.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl Core {
    pub(super) fn declare_queue(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        declare: queue::Declare,
    ) -> Result<(), Exception> {
        if declare.queue.as_str().starts_with(REPLY_TO) {
            return self.declare_reply_queue(id, number, &declare);
        }
        let name = stripped(&declare.queue);
        // A passive declaration needs no permission.
        let queue = if declare.passive {
            self.find_queue(id, &name)?
        } else {
            self.check_configure(id, &name)?;
            self.create_queue(now, id, &name, &declare)?
        };
        let Some(queue) = self.queues.get_mut(&queue) else {
            return Ok(());
        };
        queue.used = now.instant;
        let (name, queue_id) = (queue.name.clone(), queue.id);
        let ok = queue::DeclareOk {
            queue: short(&octets::display(&name)),
            message_count: count(queue.ready()),
            consumer_count: count(queue.consumers.len()),
        };
        if let Some(channel) = self.channel_mut(id, number) {
            channel.last_queue = Some(name);
        }
        if !declare.nowait {
            self.send(
                id,
                number,
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)),
            );
        }
        self.arm(queue_id);
        Ok(())
    }

    fn check_configure(&self, id: ConnectionId, queue: &str) -> Result<(), Exception> {
        let denied = self.connections.get(&id).filter(|it| it.queues_denied);
        let Some(connection) = denied else {
            return Ok(());
        };
        let (user, vhost) = (&connection.client.user, &connection.client.vhost);
        Err(access_refused(format!(
            "configure access to queue '{queue}' in vhost '{vhost}' refused for user '{user}'"
        )))
    }

    fn create_queue(
        &mut self,
        now: Now,
        id: ConnectionId,
        given: &str,
        declare: &queue::Declare,
    ) -> Result<QueueId, Exception> {
        let vhost = self.vhost_of(id)?;
        let subject = format!("queue '{given}' in vhost '{}'", vhost.name);
        if given.is_empty() && is_quorum(&declare.arguments) {
            return Err(precondition_failed(
                "Cannot declare a server-named queue for type rabbit_quorum_queue",
            ));
        }
        if given.starts_with("amq.") {
            return Err(access_refused(format!(
                "queue name '{given}' contains reserved prefix 'amq.*'"
            )));
        }
        if let Some(found) = vhost
            .queues
            .get(given)
            .and_then(|found| self.queues.get(found))
        {
            self.check_redeclared(id, found, declare, &subject)?;
            return Ok(found.id);
        }
        let settings = Settings::parse(&declare.arguments, &subject)?;
        if settings.quorum {
            check_quorum(declare, &subject)?;
        }
        let limit = self.config.limits.queues;
        if self.queues.len() >= limit {
            return Err(precondition_failed(format!(
                "cannot declare {subject}: queue limit ({limit}) is reached"
            )));
        }
        let vhost_name = vhost.name.clone();
        let name: Name = if given.is_empty() {
            format!("amq.gen-{}", self.names.token()).into()
        } else {
            given.into()
        };
        let queue_id = QueueId(self.next_id());
        let mut queue = Queue::new(queue_id, vhost_name, name.clone(), settings, now.instant);
        queue.durable = is_durable(declare);
        queue.auto_delete = declare.auto_delete;
        queue.owner = declare.exclusive.then_some(id);
        queue.arguments = declare.arguments.clone();
        self.vhost_mut(id)?.queues.insert(name, queue_id);
        self.queues.insert(queue_id, queue);
        Ok(queue_id)
    }

    /// Declares an address of direct reply-to, which succeeds if its consumer still exists.
    fn declare_reply_queue(
        &mut self,
        id: ConnectionId,
        number: u16,
        declare: &queue::Declare,
    ) -> Result<(), Exception> {
        let name = declare.queue.as_str();
        let alive =
            name == REPLY_TO || reply_token(name).is_some_and(|t| self.replies.contains_key(t));
        if !alive {
            return Err(no_queue(name, &self.vhost_of(id)?.name));
        }
        if !declare.nowait {
            let ok = queue::DeclareOk {
                queue: short(name),
                message_count: 0,
                consumer_count: 1,
            };
            self.send(
                id,
                number,
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)),
            );
        }
        Ok(())
    }

    pub(super) fn bind_queue(
        &mut self,
        id: ConnectionId,
        number: u16,
        bind: queue::Bind,
    ) -> Result<(), Exception> {
        let name = self.stripped_name(id, number, &bind.queue)?;
        let exchange = stripped(&bind.exchange);
        let queue = self.find_queue(id, &name)?;
        refuse_default(&exchange)?;
        // If the queue name is empty, an empty routing key stands for the name of the queue as well
        // (the rule of `queue.bind` in AMQP 0-9-1).
        let key = if bind.queue.as_str().is_empty() && bind.routing_key.as_str().is_empty() {
            name.to_string()
        } else {
            octets::decode(bind.routing_key.as_str().as_bytes())
        };
        let limit = self.config.limits.bindings;
        let vhost = self.vhost_mut(id)?;
        vhost.bind(
            &exchange,
            Destination::Queue(queue),
            &key,
            bind.arguments,
            limit,
        )?;
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.bound = true;
        }
        if !bind.nowait {
            self.send(
                id,
                number,
                AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
            );
        }
        Ok(())
    }

    pub(super) fn unbind_queue(
        &mut self,
        id: ConnectionId,
        number: u16,
        unbind: &queue::Unbind,
    ) -> Result<(), Exception> {
        let name = self.stripped_name(id, number, &unbind.queue)?;
        let exchange = stripped(&unbind.exchange);
        let key = octets::decode(unbind.routing_key.as_str().as_bytes());
        refuse_default(&exchange)?;
        match self.find_queue(id, &name) {
            Ok(queue) => self.vhost_mut(id)?.unbind(
                &exchange,
                &Destination::Queue(queue),
                &key,
                &unbind.arguments,
            ),
            Err(exception) if exception.code == Code::NotFound => {}
            Err(exception) => return Err(exception),
        }
        self.send(
            id,
            number,
            AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})),
        );
        Ok(())
    }

    pub(super) fn purge(
        &mut self,
        id: ConnectionId,
        number: u16,
        purge: &queue::Purge,
    ) -> Result<(), Exception> {
        let name = self.queue_name(id, number, purge.queue.as_str())?;
        let queue = self.find_queue(id, &name)?;
        let purged = self.purge_ready(queue);
        if !purge.nowait {
            let ok = queue::PurgeOk {
                message_count: count(purged),
            };
            self.send(id, number, AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok)));
        }
        Ok(())
    }

    pub(super) fn purge_ready(&mut self, queue: QueueId) -> usize {
        let purged = self.queues.get_mut(&queue).map_or(0, Queue::purge);
        self.entries -= purged;
        purged
    }

    pub(super) fn delete_queue(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        delete: &queue::Delete,
    ) -> Result<(), Exception> {
        let name = self.stripped_name(id, number, &delete.queue)?;
        let found = match self.find_queue(id, &name) {
            Ok(found) => Some(found),
            Err(exception) if exception.code == Code::NotFound => None,
            Err(exception) => return Err(exception),
        };
        let mut deleted = 0;
        if let Some(queue) = found.and_then(|found| self.queues.get(&found)) {
            let subject = format!("queue '{}' in vhost '{}'", queue.name, queue.vhost);
            if delete.if_unused && !queue.consumers.is_empty() {
                return Err(precondition_failed(format!("{subject} in use")));
            }
            if delete.if_empty && queue.ready() > 0 {
                return Err(precondition_failed(format!("{subject} not empty")));
            }
            deleted = queue.ready();
            let queue = queue.id;
            self.remove_queue(now, queue);
        }
        if !delete.nowait {
            let ok = queue::DeleteOk {
                message_count: count(deleted),
            };
            self.send(
                id,
                number,
                AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok)),
            );
        }
        Ok(())
    }

    /// Deletes a queue. Its messages are dropped, not dead-lettered, and its consumers are cancelled.
    pub(super) fn remove_queue(&mut self, now: Now, id: QueueId) {
        self.purge_ready(id);
        let Some(queue) = self.queues.remove(&id) else {
            return;
        };
        if let Some(vhost) = self.vhosts.get_mut(&queue.vhost) {
            vhost.queues.remove(&queue.name);
            if queue.bound {
                vhost.forget_queue(id);
            }
        }
        for subscriber in &queue.consumers {
            self.end_consumer(now, subscriber.id);
        }
    }

    /// Deletes an auto-delete queue that has no consumer any more.
    pub(super) fn delete_if_unused(&mut self, now: Now, id: QueueId) {
        if self
            .queues
            .get(&id)
            .is_some_and(|queue| queue.auto_delete && queue.consumers.is_empty())
        {
            self.remove_queue(now, id);
        }
    }

    /// The name of a method's queue. An empty name stands for the queue that was declared last.
    pub(super) fn queue_name(
        &self,
        id: ConnectionId,
        number: u16,
        name: &str,
    ) -> Result<Name, Exception> {
        if !name.is_empty() {
            return Ok(octets::decode(name.as_bytes()).into());
        }
        self.channel(id, number)
            .and_then(|channel| channel.last_queue.clone())
            .ok_or_else(|| Exception::new(Code::NotFound, "no previously declared queue"))
    }

    /// The same for methods in which RabbitMQ removes CR and LF from the name.
    fn stripped_name(
        &self,
        id: ConnectionId,
        number: u16,
        name: &ShortString,
    ) -> Result<Name, Exception> {
        if name.as_str().is_empty() {
            self.queue_name(id, number, "")
        } else {
            Ok(stripped(name).into())
        }
    }

    /// Finds a queue that the connection may use.
    pub(super) fn find_queue(&self, id: ConnectionId, name: &str) -> Result<QueueId, Exception> {
        let vhost = self.vhost_of(id)?;
        let queue = vhost
            .queues
            .get(name)
            .and_then(|found| self.queues.get(found))
            .ok_or_else(|| no_queue(name, &vhost.name))?;
        self.check_owner(id, queue)?;
        Ok(queue.id)
    }

    fn check_redeclared(
        &self,
        id: ConnectionId,
        queue: &Queue,
        declare: &queue::Declare,
        subject: &str,
    ) -> Result<(), Exception> {
        self.check_owner(id, queue)?;
        if queue.owner.is_some() != declare.exclusive {
            return Err(locked_queue(&queue.name, &queue.vhost));
        }
        for (name, received, current) in [
            ("durable", is_durable(declare), queue.durable),
            ("auto_delete", declare.auto_delete, queue.auto_delete),
        ] {
            if received != current {
                return Err(precondition_failed(format!(
                    "inequivalent arg '{name}' for {subject}: received '{received}' but current is \
                     '{current}'"
                )));
            }
        }
        queue
            .settings
            .check_equivalent(&queue.arguments, &declare.arguments, subject)
    }

    fn check_owner(&self, id: ConnectionId, queue: &Queue) -> Result<(), Exception> {
        match queue.owner {
            Some(owner) if owner != id => Err(locked_queue(&queue.name, &queue.vhost)),
            _ => Ok(()),
        }
    }
}

/// The token in an address of direct reply-to, which identifies its consumer.
pub(super) fn reply_token(address: &str) -> Option<&str> {
    address.strip_prefix(REPLY_TO)?.strip_prefix('.')
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Whether a queue is durable. RabbitMQ ignores `durable` of an exclusive queue, which ends with its
/// connection.
fn is_durable(declare: &queue::Declare) -> bool {
    declare.durable && !declare.exclusive
}

/// Checks the properties that RabbitMQ does not allow for a quorum queue.
fn check_quorum(declare: &queue::Declare, subject: &str) -> Result<(), Exception> {
    let property = if declare.auto_delete {
        "auto-delete"
    } else if declare.exclusive {
        "exclusive-owner"
    } else if !declare.durable {
        "non-durable"
    } else {
        return Ok(());
    };
    Err(precondition_failed(format!(
        "invalid property '{property}' for {subject}"
    )))
}
