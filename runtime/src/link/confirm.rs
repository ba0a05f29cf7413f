//! Publishes that the broker confirms, each told its own outcome.
//!
//! A confirm of lapin's may carry the returned message of another publish, an earlier or a later
//! one, so returns are matched by the message's own identity. They are complete only once every
//! earlier publish is confirmed and every confirm that came before has been looked at: outcomes
//! are given out in order.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Confirmation, PublisherConfirm};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::convert;
use super::lane::Lane;
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

/// A publish in lapin's terms. Boxed: lapin's future is large by itself, and would be half as large
/// again with this in it.
struct Prepared {
    exchange: lapin::types::ShortString,
    routing_key: lapin::types::ShortString,
    options: BasicPublishOptions,
    properties: lapin::BasicProperties,
    body: bytes::Bytes,
}

impl Prepared {
    fn new(message: Outgoing, lane: &Lane) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            exchange: convert::short(message.exchange)?,
            routing_key: convert::short(message.routing_key)?,
            options: BasicPublishOptions {
                mandatory: message.mandatory,
                immediate: false,
            },
            properties: convert::properties(message.properties, lane.session().frame_max())?,
            body: message.body,
        }))
    }
}

/// Publishes; the message is with lapin after the first poll.
async fn publish_on(
    lane: Arc<Lane>,
    prepared: Box<Prepared>,
) -> lapin::Result<lapin::PublisherConfirm> {
    let Prepared {
        exchange,
        routing_key,
        options,
        properties,
        body,
    } = *prepared;
    lane.channel()
        .basic_publish(exchange, routing_key, options, &body, properties)
        .await
}

/// A publish that lapin has: written when it is done, and confirmed when what it gives is.
type Writing = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>;

/// A publish on its way to the collector.
struct Flight {
    message: Arc<Outgoing>,
    writing: Writing,
    fate: oneshot::Sender<Fate>,
}

/// Publishes that the collector has not taken in yet.
#[derive(Default)]
struct Intake {
    flights: VecDeque<Flight>,
    /// No publish is under way, so that the collector would not look here by itself.
    is_idle: bool,
    /// There are no publishers any more, or no collector.
    is_closed: bool,
}

/// The way from the publishers to the collector.
#[derive(Default)]
struct Hatch {
    order: Mutex<()>,
    intake: Mutex<Intake>,
    open: Notify,
}

impl Hatch {
    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// lapin numbers a publish and queues its frames in two steps, both within the first poll:
    /// whoever polls a publish for the first time holds this.
    fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.intake().is_closed = true;
        self.open.notify_one();
    }
}

/// How long a route is refused on one channel before another one is tried.
///
/// A channel that first publishes to a quorum queue while its leader is gone asks the node that
/// led, and refuses everything until that node is back; a new channel knows the new leader (seen
/// on RabbitMQ 3.10, three nodes). A queue that is full does not mind.
const REFUSED: Duration = Duration::from_secs(1);

/// A channel in confirm mode with its collector.
pub(crate) struct Confirmed {
    lane: Arc<Lane>,
    is_refused: Arc<AtomicBool>,
    hatch: Arc<Hatch>,
}

impl Confirmed {
    /// Opens a channel and puts it in confirm mode.
    pub(crate) async fn open(session: &Arc<Session>, tasks: &Handle) -> Result<Self, Error> {
        let lane = Lane::open(session).await?;
        let select = lane
            .channel()
            .confirm_select(ConfirmSelectOptions { nowait: false });
        session.race(select).await?;
        let hatch = Arc::new(Hatch::default());
        let is_refused = Arc::new(AtomicBool::new(false));
        tasks.spawn(collect(
            Arc::clone(&lane),
            Arc::clone(&hatch),
            Arc::clone(&is_refused),
        ));
        Ok(Self {
            lane,
            is_refused,
            hatch,
        })
    }

    /// Whether it is there, and worth publishing on.
    pub(crate) fn is_open(&self) -> bool {
        self.lane.is_open() && !self.is_refused.load(Ordering::Relaxed)
    }

    /// Whether the broker takes messages now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.lane.session().is_blocked()
    }

    /// Hands a message over and gives the promise of its fate. The message has a `message_id`;
    /// two in flight with the same one and the same route share what the broker says of either.
    ///
    /// Dropping the promise does not unsend the message.
    ///
    /// # Errors
    /// The message was not sent: it cannot be said in AMQP, or the channel is gone.
    pub(crate) fn publish(&self, message: Arc<Outgoing>) -> Result<oneshot::Receiver<Fate>, Error> {
        let prepared = Prepared::new(Outgoing::clone(&message), &self.lane)?;
        let mut writing: Writing = Box::pin(publish_on(Arc::clone(&self.lane), prepared));
        let (fate, promise) = oneshot::channel();
        let order = self.hatch.order();
        let first = writing
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let writing = match first {
            Poll::Ready(Err(error)) => return Err(convert::error(error)),
            Poll::Ready(written) => Box::pin(std::future::ready(written)),
            Poll::Pending => writing,
        };
        // In the order of the publishes, hence under the same lock.
        let mut intake = self.hatch.intake();
        if intake.is_closed {
            let _ = fate.send(Fate::Unknown(Error::new(Kind::Disconnected)));
            return Ok(promise);
        }
        intake.flights.push_back(Flight {
            message,
            writing,
            fate,
        });
        let is_idle = std::mem::take(&mut intake.is_idle);
        drop(intake);
        drop(order);
        self.lane.session().ring();
        if is_idle {
            self.hatch.open.notify_one();
        }
        Ok(promise)
    }
}

impl Drop for Confirmed {
    fn drop(&mut self) {
        // What is under way is still collected.
        self.hatch.close();
    }
}

impl fmt::Debug for Confirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmed")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
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
    message: Arc<Outgoing>,
    fate: oneshot::Sender<Fate>,
    known: Known,
}

/// A returned message: its `message_id` and its routing key.
type Key = (String, String);

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
    fn add(&mut self, message: Arc<Outgoing>, fate: oneshot::Sender<Fate>) -> u64 {
        self.waiting.push_back(Waiting {
            message,
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
                _ if self.take_returned(&waiting.message) => Fate::Unroutable,
                Known::Nacked => Fate::Rejected,
                Known::Nothing | Known::Acked => Fate::Stored,
            };
            // A publisher that does not wait for its fate does not hear of it.
            match fate {
                Fate::Rejected => {
                    let route = waiting.message.routing_key.clone();
                    self.refused.entry(route).or_insert_with(Instant::now);
                }
                // Mostly there are none.
                Fate::Stored if !self.refused.is_empty() => {
                    self.refused.remove(&waiting.message.routing_key);
                }
                _ => {}
            }
            let _ = waiting.fate.send(fate);
        }
    }

    fn is_refused_for(&self, time: Duration) -> bool {
        self.refused.values().any(|since| since.elapsed() >= time)
    }

    fn take_returned(&mut self, message: &Outgoing) -> bool {
        // Mostly there are none.
        if self.returned.is_empty() {
            return false;
        }
        let id = message.properties.message_id.clone().unwrap_or_default();
        let key = (id, message.routing_key.clone());
        let Some(count) = self.returned.get_mut(&key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&key);
        }
        true
    }

    fn fail(&mut self, reason: &Error) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.fate.send(Fate::Unknown(reason.clone()));
        }
    }
}

/// What the broker is yet to confirm.
#[derive(Default)]
struct UnderWay {
    /// In the order in which they are written: to look at the first one is enough.
    writing: VecDeque<(u64, Writing)>,
    confirming: FuturesUnordered<Confirming>,
}

struct Confirming {
    number: u64,
    confirm: PublisherConfirm,
}

type Numbered = (u64, lapin::Result<Confirmation>);

impl Future for Confirming {
    type Output = Numbered;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Numbered> {
        let number = self.number;
        let confirm = Pin::new(&mut self.confirm);
        confirm.poll(context).map(|confirmed| (number, confirmed))
    }
}

impl UnderWay {
    fn is_empty(&self) -> bool {
        self.writing.is_empty() && self.confirming.is_empty()
    }

    /// The next one whose end is known; pending if there is none.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Numbered> {
        while let Some((number, writing)) = self.writing.front_mut() {
            let (number, Poll::Ready(written)) = (*number, writing.as_mut().poll(context)) else {
                break;
            };
            self.writing.pop_front();
            match written {
                Ok(confirm) => self.confirming.push(Confirming { number, confirm }),
                Err(error) => return Poll::Ready((number, Err(error))),
            }
        }
        match self.confirming.poll_next_unpin(context) {
            Poll::Ready(Some(numbered)) => Poll::Ready(numbered),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

async fn collect(lane: Arc<Lane>, hatch: Arc<Hatch>, is_refused: Arc<AtomicBool>) {
    let mut ledger = Ledger::default();
    let mut under_way = UnderWay::default();
    let session = Arc::clone(lane.session());
    let mut down = std::pin::pin!(session.down());
    while take_in(&hatch, &mut ledger, &mut under_way) {
        tokio::select! {
            biased;
            (number, confirmation) = poll_fn(|context| under_way.poll_next(context)),
                if !under_way.is_empty() =>
            {
                ledger.record(number, confirmation);
                record_ready(&mut ledger, &mut under_way);
                loop {
                    let known = ledger.known();
                    if known == 0 {
                        break;
                    }
                    // What came back for one of these may be with any confirm that was there by
                    // now, that of a publish not yet taken in included.
                    take_in(&hatch, &mut ledger, &mut under_way);
                    record_ready(&mut ledger, &mut under_way);
                    ledger.settle(known);
                }
                if ledger.is_refused_for(REFUSED) && !is_refused.swap(true, Ordering::Relaxed) {
                    tracing::debug!("refused for a while: another channel may not be");
                }
            }
            () = hatch.open.notified(), if under_way.is_empty() => {}
            reason = &mut down => {
                ledger.fail(&reason);
                break;
            }
        }
    }
    hatch.close();
    // Publishes that raced with the end.
    for flight in std::mem::take(&mut hatch.intake().flights) {
        let _ = flight
            .fate
            .send(Fate::Unknown(Error::new(Kind::Disconnected)));
    }
}

/// Takes in every publish that lapin has numbered by now: that and its way here are under one
/// lock. While others are under way nobody says that one has come: it is found with the next of
/// their confirms, and its own outcome is given out after theirs anyway.
///
/// False when there is nothing more to collect.
fn take_in(hatch: &Hatch, ledger: &mut Ledger, under_way: &mut UnderWay) -> bool {
    let _order = hatch.order();
    let mut intake = hatch.intake();
    for flight in intake.flights.drain(..) {
        let number = ledger.add(flight.message, flight.fate);
        under_way.writing.push_back((number, flight.writing));
    }
    intake.is_idle = under_way.is_empty();
    !(intake.is_idle && intake.is_closed)
}

/// Every confirm that is there by now.
fn record_ready(ledger: &mut Ledger, under_way: &mut UnderWay) {
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    let mut context = Context::from_waker(&waker);
    loop {
        match under_way.poll_next(&mut context) {
            Poll::Ready((number, confirmation)) => ledger.record(number, confirmation),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;

    /// One a message, and each is moved to the heap. 1,064 bytes of it are lapin's: a little too much
    /// for where the allocator is fast.
    #[test]
    fn the_future_of_a_publish_stays_small() {
        type Given = (Arc<Lane>, Box<Prepared>);
        let publish = size_of_future(|(lane, prepared): Given| publish_on(lane, prepared));
        assert!(publish <= 1152, "{publish}");
    }
}
