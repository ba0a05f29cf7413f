//! Methods of class `exchange`: declaration, binding and deletion.

use amq_protocol::{
    protocol::{AMQPClass, exchange},
    types::FieldTable,
};

use crate::{
    arguments::{stripped, text, type_name},
    core::{Core, vhost::Vhost},
    exception::{Code, Exception, access_refused, no_exchange, precondition_failed},
    exchange::{Destination, Exchange, Kind, Match},
    id::{ConnectionId, Name, QueueId},
    octets,
    settings::check_argument,
};

impl Core {
    pub(super) fn vhost_of(&self, id: ConnectionId) -> Result<&Vhost, Exception> {
        self.connections
            .get(&id)
            .and_then(|connection| self.vhosts.get(&connection.client.vhost))
            .ok_or_else(|| Exception::new(Code::InternalError, "the connection has no vhost"))
    }

    pub(super) fn vhost_mut(&mut self, id: ConnectionId) -> Result<&mut Vhost, Exception> {
        self.connections
            .get(&id)
            .and_then(|connection| self.vhosts.get_mut(&connection.client.vhost))
            .ok_or_else(|| Exception::new(Code::InternalError, "the connection has no vhost"))
    }

    pub(super) fn declare_exchange(
        &mut self,
        id: ConnectionId,
        number: u16,
        declare: exchange::Declare,
    ) -> Result<(), Exception> {
        let limit = self.config.limits.exchanges;
        let vhost = self.vhost_mut(id)?;
        let name = stripped(&declare.exchange);
        let name = name.as_str();
        let subject = format!("exchange '{name}' in vhost '{}'", vhost.name);
        if declare.passive {
            refuse_default(name)?;
            if !vhost.exchanges.contains_key(name) {
                return Err(no_exchange(name, &vhost.name));
            }
        } else {
            let kind = Kind::parse(declare.kind.as_str()).ok_or_else(|| {
                Exception::new(
                    Code::CommandInvalid,
                    format!("unknown exchange type '{}'", declare.kind),
                )
            })?;
            refuse_default(name)?;
            if let Some(exchange) = vhost.exchanges.get(name) {
                check_equivalent(exchange, kind, &declare, &subject)?;
            } else {
                if name.starts_with("amq.") {
                    return Err(access_refused(format!(
                        "exchange name '{name}' contains reserved prefix 'amq.*'"
                    )));
                }
                if vhost.exchanges.len() >= limit {
                    return Err(precondition_failed(format!(
                        "cannot declare {subject}: exchange limit ({limit}) is reached"
                    )));
                }
                let mut exchange = Exchange::new(name.into(), kind);
                exchange.durable = declare.durable;
                exchange.auto_delete = declare.auto_delete;
                exchange.internal = declare.internal;
                exchange.alternate = match declare.arguments.inner().get("alternate-exchange") {
                    None => None,
                    Some(value) => Some(Name::from(text(value).ok_or_else(|| {
                        precondition_failed(format!(
                            "invalid type '{}' for arg 'alternate-exchange' in {subject}",
                            type_name(value)
                        ))
                    })?)),
                };
                exchange.arguments = declare.arguments;
                vhost.exchanges.insert(exchange.name.clone(), exchange);
            }
        }
        if !declare.nowait {
            let ok = exchange::DeclareOk {};
            self.send(
                id,
                number,
                AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(ok)),
            );
        }
        Ok(())
    }

    pub(super) fn delete_exchange(
        &mut self,
        id: ConnectionId,
        number: u16,
        delete: &exchange::Delete,
    ) -> Result<(), Exception> {
        let name = stripped(&delete.exchange);
        let name = name.as_str();
        refuse_default(name)?;
        let vhost = self.vhost_mut(id)?;
        if name.starts_with("amq.") {
            return Err(access_refused(format!(
                "deletion of system exchange '{name}' in vhost '{}' not allowed",
                vhost.name
            )));
        }
        if let Some(exchange) = vhost.exchanges.get(name) {
            if delete.if_unused && exchange.is_bound() {
                return Err(precondition_failed(format!(
                    "exchange '{name}' in vhost '{}' in use",
                    vhost.name
                )));
            }
            vhost.remove_exchange(name);
        }
        if !delete.nowait {
            let ok = exchange::DeleteOk {};
            self.send(
                id,
                number,
                AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(ok)),
            );
        }
        Ok(())
    }

    pub(super) fn bind_exchange(
        &mut self,
        id: ConnectionId,
        number: u16,
        bind: exchange::Bind,
    ) -> Result<(), Exception> {
        let (source, destination) = (stripped(&bind.source), stripped(&bind.destination));
        refuse_default(&source)?;
        refuse_default(&destination)?;
        let limit = self.config.limits.bindings;
        let vhost = self.vhost_mut(id)?;
        vhost.bind(
            &source,
            vhost.exchange_destination(&destination)?,
            &octets::decode(bind.routing_key.as_str().as_bytes()),
            bind.arguments,
            limit,
        )?;
        if !bind.nowait {
            let ok = exchange::BindOk {};
            self.send(
                id,
                number,
                AMQPClass::Exchange(exchange::AMQPMethod::BindOk(ok)),
            );
        }
        Ok(())
    }

    pub(super) fn unbind_exchange(
        &mut self,
        id: ConnectionId,
        number: u16,
        unbind: &exchange::Unbind,
    ) -> Result<(), Exception> {
        let (source, destination) = (stripped(&unbind.source), stripped(&unbind.destination));
        refuse_default(&source)?;
        refuse_default(&destination)?;
        let destination = Destination::Exchange(destination.into());
        let vhost = self.vhost_mut(id)?;
        vhost.unbind(
            &source,
            &destination,
            &octets::decode(unbind.routing_key.as_str().as_bytes()),
            &unbind.arguments,
        );
        if !unbind.nowait {
            let ok = exchange::UnbindOk {};
            self.send(
                id,
                number,
                AMQPClass::Exchange(exchange::AMQPMethod::UnbindOk(ok)),
            );
        }
        Ok(())
    }
}

impl Vhost {
    fn exchange_destination(&self, name: &str) -> Result<Destination, Exception> {
        match self.exchanges.get(name) {
            Some(exchange) => Ok(Destination::Exchange(exchange.name.clone())),
            None => Err(no_exchange(name, &self.name)),
        }
    }

    pub(super) fn bind(
        &mut self,
        source: &str,
        destination: Destination,
        key: &str,
        arguments: FieldTable,
        limit: usize,
    ) -> Result<(), Exception> {
        let Some(exchange) = self.exchanges.get_mut(source) else {
            return Err(no_exchange(source, &self.name));
        };
        if exchange.kind == Kind::Headers
            && let Err(reason) = Match::of(&arguments)
        {
            return Err(precondition_failed(reason));
        }
        if exchange.count() >= limit {
            return Err(precondition_failed(format!(
                "cannot bind to exchange '{source}' in vhost '{}': binding limit ({limit}) is reached",
                self.name
            )));
        }
        exchange.bind(destination, key, arguments);
        Ok(())
    }

    /// Removes a binding, if it exists.
    pub(super) fn unbind(
        &mut self,
        source: &str,
        destination: &Destination,
        key: &str,
        arguments: &FieldTable,
    ) {
        if let Some(exchange) = self.exchanges.get_mut(source)
            && exchange.unbind(destination, key, arguments)
            && exchange.auto_delete
            && !exchange.is_bound()
        {
            self.remove_exchange(source);
        }
    }

    /// Deletes an exchange and the bindings to it, and the auto-delete exchanges that have no binding
    /// left.
    fn remove_exchange(&mut self, name: &str) {
        if let Some(exchange) = self.exchanges.remove(name) {
            self.remove_destination(&Destination::Exchange(exchange.name));
        }
    }

    pub(super) fn forget_queue(&mut self, queue: QueueId) {
        self.remove_destination(&Destination::Queue(queue));
    }

    fn remove_destination(&mut self, destination: &Destination) {
        let mut deleted = vec![destination.clone()];
        while let Some(destination) = deleted.pop() {
            let mut unused = Vec::new();
            for exchange in self.exchanges.values_mut() {
                if exchange.remove_destination(&destination)
                    && exchange.auto_delete
                    && !exchange.is_bound()
                {
                    unused.push(exchange.name.clone());
                }
            }
            for name in unused {
                self.exchanges.remove(&name);
                deleted.push(Destination::Exchange(name));
            }
        }
    }
}

pub(super) fn refuse_default(name: &str) -> Result<(), Exception> {
    if name.is_empty() {
        return Err(access_refused(
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

fn check_equivalent(
    exchange: &Exchange,
    kind: Kind,
    declare: &exchange::Declare,
    subject: &str,
) -> Result<(), Exception> {
    let different = |name: &str, received: &str, current: &str| {
        Err(precondition_failed(format!(
            "inequivalent arg '{name}' for {subject}: received '{received}' but current is '{current}'"
        )))
    };
    if exchange.kind != kind {
        return different("type", kind.name(), exchange.kind.name());
    }
    for (name, received, current) in [
        ("durable", declare.durable, exchange.durable),
        ("auto_delete", declare.auto_delete, exchange.auto_delete),
        ("internal", declare.internal, exchange.internal),
    ] {
        if received != current {
            return different(name, &received.to_string(), &current.to_string());
        }
    }
    check_argument(
        &exchange.arguments,
        &declare.arguments,
        "alternate-exchange",
        subject,
    )
}
