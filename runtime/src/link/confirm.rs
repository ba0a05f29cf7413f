//! Publishes that the broker confirms, each told its own outcome.
//!
//! A confirm of lapin's may carry the returned message of another publish, an earlier or a later
//! one, so returns are matched by the message's own identity. They are complete only once every
//! earlier publish is confirmed and every confirm that came before has been looked at: outcomes
//! are given out in order.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

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

/// How long a route is refused on one channel before another one is tried.
///
/// A channel that first publishes to a quorum queue while its leader is gone asks the node that
/// led, and refuses everything until that node is back; a new channel knows the new leader (seen
/// on RabbitMQ 3.10, three nodes). A queue that is full does not mind.
const REFUSED: Duration = Duration::from_secs(1);

/// A channel in confirm mode with its collector.
#[derive(Debug)]
pub(crate) struct Confirmed {
    lane: Arc<Lane>,
    is_refused: Arc<AtomicBool>,
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
        let is_refused = Arc::new(AtomicBool::new(false));
        tasks.spawn(collect(
            Arc::clone(&lane),
            incoming,
            Arc::clone(&is_refused),
        ));
        Ok(Self {
            lane,
            is_refused,
            flights,
        })
    }

    /// Whether it is there, and worth publishing on.
    pub(crate) fn is_open(&self) -> bool {
        self.lane.is_open() && !self.is_refused.load(Ordering::Relaxed)
    }

    /// Hands a message over and gives the promise of its fate. The message has a `message_id`;
    /// two in flight with the same one and the same route share what the broker says of either.
    ///
    /// Dropping the promise does not unsend the message.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(&self, message: Outgoing) -> Result<oneshot::Receiver<Fate>, Error> {
        let id = message.properties.message_id.clone().unwrap_or_default();
        let key = (id, message.routing_key.clone());
        let prepared = Prepared::new(message, &self.lane)?;
        let lane = Arc::clone(&self.lane);
        let mut written: Written =
            Box::pin(async move { prepared.publish(lane.channel()).await?.await });
        let (fate, promise) = oneshot::channel();
        let order = self.lane.order();
        let first = written
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let flight = match first {
            Poll::Ready(Err(error)) => return Err(convert::error(error)),
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
    /// Routes that have been refused, and nothing else, since then.
    refused: HashMap<String, Instant>,
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

    /// How many of the first ones are known.
    fn known(&self) -> usize {
        self.waiting
            .iter()
            .take_while(|waiting| !matches!(waiting.known, Known::Nothing))
            .count()
    }

    /// Gives out the outcomes of so many.
    fn settle(&mut self, publishes: usize) {
        for _ in 0..publishes {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            self.first += 1;
            let fate = match waiting.known {
                Known::Failed(error) => Fate::Unknown(error),
                _ if self.take_returned(&waiting.key) => Fate::Unroutable,
                Known::Nacked => Fate::Rejected,
                Known::Nothing | Known::Acked => Fate::Stored,
            };
            // A publisher that does not wait for its fate does not hear of it.
            match fate {
                Fate::Rejected => {
                    let route = waiting.key.1;
                    self.refused.entry(route).or_insert_with(Instant::now);
                }
                // Mostly there are none.
                Fate::Stored if !self.refused.is_empty() => {
                    self.refused.remove(&waiting.key.1);
                }
                _ => {}
            }
            let _ = waiting.fate.send(fate);
        }
    }

    fn is_refused_for(&self, time: Duration) -> bool {
        self.refused.values().any(|since| since.elapsed() >= time)
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

type Confirms = FuturesUnordered<Pin<Box<dyn Future<Output = Numbered> + Send>>>;
type Numbered = (u64, lapin::Result<Confirmation>);

async fn collect(
    lane: Arc<Lane>,
    mut incoming: mpsc::UnboundedReceiver<Flight>,
    is_refused: Arc<AtomicBool>,
) {
    let mut ledger = Ledger::default();
    let mut confirms = Confirms::new();
    let session = Arc::clone(lane.session());
    let mut down = std::pin::pin!(session.down());
    let mut open = true;
    while open || !confirms.is_empty() {
        tokio::select! {
            biased;
            Some((number, confirmation)) = confirms.next(), if !confirms.is_empty() => {
                ledger.record(number, confirmation);
                record_ready(&mut ledger, &mut confirms);
                loop {
                    let known = ledger.known();
                    if known == 0 {
                        break;
                    }
                    // What came back for one of these may be with any confirm that was there by
                    // now, that of a publish not yet taken in included.
                    take_in(&lane, &mut incoming, &mut ledger, &confirms);
                    record_ready(&mut ledger, &mut confirms);
                    ledger.settle(known);
                }
                if ledger.is_refused_for(REFUSED) && !is_refused.swap(true, Ordering::Relaxed) {
                    tracing::debug!("refused for a while: another channel may not be");
                }
            }
            flight = incoming.recv(), if open => match flight {
                None => open = false,
                Some(flight) => add(flight, &mut ledger, &confirms),
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

fn add(flight: Flight, ledger: &mut Ledger, confirms: &Confirms) {
    let Flight { key, written, fate } = flight;
    let number = ledger.add(key, fate);
    confirms.push(Box::pin(async move { (number, written.await) }));
}

/// Every publish that lapin has numbered by now: that and its way here are under one lock.
fn take_in(
    lane: &Lane,
    incoming: &mut mpsc::UnboundedReceiver<Flight>,
    ledger: &mut Ledger,
    confirms: &Confirms,
) {
    let _order = lane.order();
    while let Ok(flight) = incoming.try_recv() {
        add(flight, ledger, confirms);
    }
}

/// Every confirm that is there by now.
fn record_ready(ledger: &mut Ledger, confirms: &mut Confirms) {
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    let mut context = Context::from_waker(&waker);
    loop {
        match confirms.poll_next_unpin(&mut context) {
            Poll::Ready(Some((number, confirmation))) => ledger.record(number, confirmation),
            Poll::Ready(None) => return,
            // It may stop short of some that are ready, and says so.
            Poll::Pending if again.0.swap(false, Ordering::SeqCst) => {}
            Poll::Pending => return,
        }
    }
}

#[derive(Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
