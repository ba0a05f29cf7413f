//! Publishes that the broker confirms, each told its own outcome.
//!
//! A confirm of lapin's may carry the returned message of another publish, so returns are matched
//! by the message's own identity. They are complete only once every earlier publish is confirmed
//! and every confirm that is ready has been looked at: outcomes are given out in order.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::Confirmation;
use lapin::options::ConfirmSelectOptions;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::convert;
use super::lane::{Lane, Prepared};
use super::session::Session;
use crate::error::{Error, Kind};
use crate::message::Outgoing;

/// What the broker did with a message.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It is safe with the broker.
    Stored,
    /// No queue took it.
    Unroutable,
    /// The broker refused it (`basic.nack`).
    Rejected,
    /// It was not written: the channel was gone.
    NotSent(Error),
    /// The connection went before the confirm came, or the broker closed the channel.
    Unknown(Error),
}

/// A message's identity within one channel.
type Key = (String, String);

type Written = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

struct Flight {
    key: Key,
    written: Written,
    fate: oneshot::Sender<Fate>,
}

/// A channel in confirm mode with its collector.
#[derive(Debug)]
pub(crate) struct Confirmed {
    lane: Arc<Lane>,
    flights: mpsc::UnboundedSender<Flight>,
}

impl Confirmed {
    /// Opens a channel and puts it in confirm mode.
    pub(crate) async fn open(session: &Arc<Session>, tasks: &Handle) -> Result<Self, Error> {
        let lane = Lane::open(session).await?;
        let select = lane
            .channel()
            .confirm_select(ConfirmSelectOptions { nowait: false });
        session.race(select).await?;
        let (flights, incoming) = mpsc::unbounded_channel();
        tasks.spawn(collect(Arc::clone(session), incoming));
        Ok(Self { lane, flights })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lane.is_open()
    }

    /// Hands a message over and gives the promise of its fate. The message has a `message_id`;
    /// two in flight with the same one and the same route share what the broker says of either.
    ///
    /// Dropping the promise does not unsend the message.
    pub(crate) fn publish(&self, message: Outgoing) -> Result<oneshot::Receiver<Fate>, Error> {
        let id = message.properties.message_id.clone().unwrap_or_default();
        let key = (id, message.routing_key.clone());
        let prepared = Prepared::new(message, self.lane.session())?;
        let channel = self.lane.channel().clone();
        let mut written: Written = Box::pin(async move { prepared.publish(&channel).await?.await });
        let (fate, promise) = oneshot::channel();
        let order = self.lane.order();
        let first = written
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let flight = match first {
            Poll::Ready(Err(error)) => {
                // Nobody else is told: the sender is still here.
                let _ = fate.send(Fate::NotSent(convert::error(error)));
                return Ok(promise);
            }
            Poll::Ready(Ok(confirmation)) => Flight {
                key,
                written: Box::pin(std::future::ready(Ok(confirmation))),
                fate,
            },
            Poll::Pending => Flight { key, written, fate },
        };
        // In the order of the publishes, hence under the same lock.
        let sent = self.flights.send(flight);
        drop(order);
        if let Err(mpsc::error::SendError(flight)) = sent {
            let _ = flight
                .fate
                .send(Fate::Unknown(Error::new(Kind::Disconnected)));
        }
        Ok(promise)
    }
}

/// What is known of one publish.
enum Known {
    Nothing,
    Acked,
    Nacked,
    Failed(Error),
}

struct Waiting {
    key: Key,
    fate: oneshot::Sender<Fate>,
    known: Known,
}

#[derive(Default)]
struct Ledger {
    /// The sequence number of the first in `waiting`.
    first: u64,
    waiting: VecDeque<Waiting>,
    returned: HashMap<Key, usize>,
}

impl Ledger {
    fn add(&mut self, key: Key, fate: oneshot::Sender<Fate>) -> u64 {
        self.waiting.push_back(Waiting {
            key,
            fate,
            known: Known::Nothing,
        });
        self.first + self.waiting.len() as u64 - 1
    }

    fn record(&mut self, number: u64, confirmation: lapin::Result<Confirmation>) {
        let (known, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Known::Acked, returned),
            Ok(Confirmation::Nack(returned)) => (Known::Nacked, returned),
            Ok(Confirmation::NotRequested) => (Known::Acked, None),
            Err(error) => (Known::Failed(convert::error(error)), None),
        };
        if let Some(message) = returned {
            let id = message.delivery.properties.message_id().as_ref();
            let id = id.map(ToString::to_string).unwrap_or_default();
            let key = (id, message.delivery.routing_key.to_string());
            *self.returned.entry(key).or_default() += 1;
        }
        let position = number
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(waiting) = position.and_then(|at| self.waiting.get_mut(at)) {
            waiting.known = known;
        }
    }

    fn settle(&mut self) {
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| !matches!(waiting.known, Known::Nothing))
        {
            self.first += 1;
            let fate = match waiting.known {
                Known::Failed(error) => Fate::Unknown(error),
                _ if self.take_returned(&waiting.key) => Fate::Unroutable,
                Known::Nacked => Fate::Rejected,
                Known::Nothing | Known::Acked => Fate::Stored,
            };
            // A publisher that does not wait for its fate does not hear of it.
            let _ = waiting.fate.send(fate);
        }
    }

    fn take_returned(&mut self, key: &Key) -> bool {
        let Some(count) = self.returned.get_mut(key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(key);
        }
        true
    }

    fn fail(&mut self, reason: &Error) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.fate.send(Fate::Unknown(reason.clone()));
        }
    }
}

async fn collect(session: Arc<Session>, mut incoming: mpsc::UnboundedReceiver<Flight>) {
    let mut ledger = Ledger::default();
    let mut confirms = FuturesUnordered::new();
    let mut down = std::pin::pin!(session.down());
    let mut open = true;
    while open || !confirms.is_empty() {
        tokio::select! {
            biased;
            Some((number, confirmation)) = confirms.next(), if !confirms.is_empty() => {
                ledger.record(number, confirmation);
                // Every confirm that is ready, before any outcome is given out.
                while let Some(Some((number, confirmation))) =
                    futures_util::FutureExt::now_or_never(confirms.next())
                {
                    ledger.record(number, confirmation);
                }
                ledger.settle();
            }
            flight = incoming.recv(), if open => match flight {
                None => open = false,
                Some(Flight { key, written, fate }) => {
                    let number = ledger.add(key, fate);
                    confirms.push(async move { (number, written.await) });
                }
            },
            reason = &mut down => {
                ledger.fail(&reason);
                break;
            }
        }
    }
    // Publishes that raced with the end.
    while let Ok(flight) = incoming.try_recv() {
        let _ = flight
            .fate
            .send(Fate::Unknown(Error::new(Kind::Disconnected)));
    }
}
