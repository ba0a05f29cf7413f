//! Dispatch of methods to the functions that implement them.

use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm, exchange, queue};

use crate::{
    core::{
        Core, Now,
        connection::{Confirm, Settlement},
    },
    exception::{Code, Exception, not_implemented, precondition_failed},
    id::ConnectionId,
};

impl Core {
    pub(super) fn method(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        method: AMQPClass,
    ) -> Result<(), Exception> {
        if !self.connections.contains_key(&id) {
            return Ok(());
        }
        match &method {
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                self.open_channel(id, number);
                return Ok(());
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.close_channel(now, id, number);
                self.send(
                    id,
                    number,
                    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
                );
                return Ok(());
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.close_channel(now, id, number);
                return Ok(());
            }
            _ => {}
        }
        // Methods that the client sent before it received the broker's `channel.close` are ignored.
        if self
            .channel(id, number)
            .is_none_or(|channel| channel.closing)
        {
            return Ok(());
        }
        self.check_not_committing(id, number)?;
        match method {
            AMQPClass::Basic(method) => self.basic(now, id, number, method),
            AMQPClass::Queue(method) => self.queue_method(now, id, number, method),
            AMQPClass::Exchange(method) => self.exchange_method(id, number, method),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                if !flow.active {
                    return Err(not_implemented("active=false"));
                }
                let ok = channel::FlowOk { active: true };
                self.send(
                    id,
                    number,
                    AMQPClass::Channel(channel::AMQPMethod::FlowOk(ok)),
                );
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::FlowOk(_)) => Ok(()),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                if let Some(channel) = self.channel_mut(id, number) {
                    if channel.transaction.is_some() {
                        return Err(precondition_failed("cannot switch from tx to confirm mode"));
                    }
                    channel.confirm.get_or_insert_with(Confirm::default);
                }
                if !select.nowait {
                    let ok = confirm::SelectOk {};
                    self.send(
                        id,
                        number,
                        AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(ok)),
                    );
                }
                Ok(())
            }
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                let ok = access::RequestOk {};
                self.send(
                    id,
                    number,
                    AMQPClass::Access(access::AMQPMethod::RequestOk(ok)),
                );
                Ok(())
            }
            AMQPClass::Tx(method) => self.transaction_method(now, id, number, &method),
            _ => Err(unexpected()),
        }
    }

    fn basic(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        method: basic::AMQPMethod,
    ) -> Result<(), Exception> {
        use basic::AMQPMethod as M;
        match method {
            M::Qos(qos) => self.qos(now, id, number, &qos),
            M::Consume(consume) => self.consume(now, id, number, consume),
            M::Cancel(cancel) => {
                self.cancel(now, id, number, cancel);
                Ok(())
            }
            M::Get(get) => self.get(now, id, number, &get),
            M::Ack(ack) => self.settle(
                now,
                (id, number),
                (ack.delivery_tag, ack.multiple),
                Settlement::Ack,
            ),
            M::Nack(nack) => self.settle(
                now,
                (id, number),
                (nack.delivery_tag, nack.multiple),
                Settlement::rejected(nack.requeue),
            ),
            M::Reject(reject) => self.settle(
                now,
                (id, number),
                (reject.delivery_tag, false),
                Settlement::rejected(reject.requeue),
            ),
            M::Recover(recover) => {
                self.recover(now, id, number, recover.requeue)?;
                self.send(
                    id,
                    number,
                    AMQPClass::Basic(M::RecoverOk(basic::RecoverOk {})),
                );
                Ok(())
            }
            M::RecoverAsync(recover) => self.recover(now, id, number, recover.requeue),
            // The reply to a `basic.cancel` of the broker.
            M::CancelOk(_) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    fn queue_method(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        method: queue::AMQPMethod,
    ) -> Result<(), Exception> {
        use queue::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.declare_queue(now, id, number, declare),
            M::Bind(bind) => self.bind_queue(id, number, bind),
            M::Unbind(unbind) => self.unbind_queue(id, number, &unbind),
            M::Purge(purge) => self.purge(id, number, &purge),
            M::Delete(delete) => self.delete_queue(now, id, number, &delete),
            _ => Err(unexpected()),
        }
    }

    fn exchange_method(
        &mut self,
        id: ConnectionId,
        number: u16,
        method: exchange::AMQPMethod,
    ) -> Result<(), Exception> {
        use exchange::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.declare_exchange(id, number, declare),
            M::Delete(delete) => self.delete_exchange(id, number, &delete),
            M::Bind(bind) => self.bind_exchange(id, number, bind),
            M::Unbind(unbind) => self.unbind_exchange(id, number, &unbind),
            _ => Err(unexpected()),
        }
    }
}

/// The exception for a method that only a broker sends, or that is not allowed in this state.
pub(super) fn unexpected() -> Exception {
    Exception::new(Code::CommandInvalid, "unimplemented method")
}
