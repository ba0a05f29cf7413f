//! Calls that are made at the same time share a message.
//!
//! Nothing waits for a timer: a message leaves as soon as whoever is about to call has done so, and
//! the message before it is on the socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::caller::{Caller, Slot, Stage, Station};
use super::letter::Letter;
use crate::error::{Error, Kind};
use crate::wire::batch;
use crate::wire::envelope::{CALLS_TYPE, ReplyForm, RequestHead, milliseconds};
use crate::wire::message::Outgoing;

/// Arguments larger than this have a message of their own: its cost is small beside theirs.
const LARGE: usize = 16 * 1024;
/// How large a message of several calls becomes.
const FULL: usize = 64 * 1024;
/// The time left of two calls in one message differs by less than this part of it: the message
/// expires with the first of them.
const ALIKE: u32 = 100;
/// How long a service whose server refused such a message is left alone with them: its servers
/// may be of several versions, and the next one may refuse again.
const RELUCTANT: Duration = Duration::from_secs(60);

/// Gathers the calls of one client and its clones.
pub(super) struct Coalescer {
    parcels: mpsc::UnboundedSender<Parcel>,
    /// Whether the service's servers take several calls in one message.
    understood: AtomicBool,
    /// Whether what was gathered last was one call: then nobody waits for others in vain.
    lonely: Arc<AtomicBool>,
    refused: Mutex<Option<Instant>>,
}

/// A call that waits for others.
struct Parcel {
    station: Arc<Station>,
    id: u64,
    letter: Arc<Letter>,
}

impl Coalescer {
    /// For up to so many calls in one message; `caller` is their `app_id`.
    pub(super) fn start(most: usize, caller: Option<String>, tasks: &Handle) -> Self {
        let (parcels, incoming) = mpsc::unbounded_channel();
        let lonely = Arc::new(AtomicBool::new(false));
        tasks.spawn(gather(incoming, most, caller, Arc::clone(&lonely)));
        Self {
            parcels,
            lonely,
            understood: AtomicBool::new(false),
            refused: Mutex::new(None),
        }
    }

    /// Takes a call that may share a message; others go by themselves.
    pub(super) fn take(&self, caller: &Caller, letter: &Arc<Letter>) -> Option<Slot> {
        let may_share = self.understood.load(Ordering::Relaxed)
            && letter.method.own_queue().is_none()
            && !letter.method.is_at_most_once()
            && letter.headers.is_empty()
            && letter.trace.is_empty()
            && letter.body.len() <= LARGE;
        if !may_share {
            return None;
        }
        let station = caller.ready()?;
        if self.lonely.load(Ordering::Relaxed) && !station.has_calls() {
            return None;
        }
        let slot = station.register(Stage::Waiting)?;
        let parcel = Parcel {
            station,
            id: slot.id,
            letter: Arc::clone(letter),
        };
        // Without its runtime nobody gathers any more: the call is not registered then.
        self.parcels.send(parcel).ok().map(|()| slot)
    }

    /// Whether the next call had better ask what its server understands.
    pub(super) fn asks(&self) -> bool {
        if self.understood.load(Ordering::Relaxed) {
            return false;
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_none_or(|since| since.elapsed() >= RELUCTANT)
    }

    /// A reply says what its server understands.
    pub(super) fn heard(&self, form: ReplyForm) {
        if form == ReplyForm::AcceptsBatches && self.asks() {
            self.understood.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn refused(&self) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Instant::now());
        self.understood.store(false, Ordering::Relaxed);
    }
}

async fn gather(
    mut incoming: mpsc::UnboundedReceiver<Parcel>,
    most: usize,
    caller: Option<String>,
    lonely: Arc<AtomicBool>,
) {
    let mut parcels = Vec::new();
    while incoming.recv_many(&mut parcels, usize::MAX).await > 0 {
        // Whoever is about to call gets to do so: as long as others do, there may be more.
        loop {
            tokio::task::yield_now().await;
            let before = parcels.len();
            while let Ok(parcel) = incoming.try_recv() {
                parcels.push(parcel);
            }
            if parcels.len() == before || parcels.len() >= most {
                break;
            }
        }
        lonely.store(parcels.len() == 1, Ordering::Relaxed);
        let mut groups: Vec<Group> = Vec::new();
        for parcel in parcels.drain(..) {
            // The earlier ones are full, mostly.
            let mut latest = groups.iter_mut().rev();
            match latest.find(|group| group.takes(&parcel, most)) {
                Some(group) => group.add(parcel),
                None => groups.push(Group::of(parcel)),
            }
        }
        // They leave together, when the first of them is waited for.
        let sent = groups
            .into_iter()
            .filter_map(|group| group.send(caller.as_deref()));
        for written in sent.collect::<Vec<_>>() {
            written.await;
        }
    }
}

/// Calls for one message.
struct Group {
    parcels: Vec<Parcel>,
    size: usize,
    earliest: Instant,
    latest: Instant,
}

impl Group {
    fn of(parcel: Parcel) -> Self {
        let (size, deadline) = (parcel.letter.body.len(), parcel.letter.deadline);
        Self {
            parcels: vec![parcel],
            size,
            earliest: deadline,
            latest: deadline,
        }
    }

    fn takes(&self, parcel: &Parcel, most: usize) -> bool {
        let Some(first) = self.parcels.first() else {
            return false;
        };
        let (ours, other) = (&first.letter, &parcel.letter);
        let earliest = self.earliest.min(other.deadline);
        let spread = self.latest.max(other.deadline) - earliest;
        self.parcels.len() < most
            && self.size + other.body.len() <= FULL
            && Arc::ptr_eq(&first.station, &parcel.station)
            && ours.codec == other.codec
            && ours.priority == other.priority
            && spread * ALIKE <= earliest.saturating_duration_since(Instant::now())
    }

    fn add(&mut self, parcel: Parcel) {
        let deadline = parcel.letter.deadline;
        self.size += parcel.letter.body.len();
        self.earliest = self.earliest.min(deadline);
        self.latest = self.latest.max(deadline);
        self.parcels.push(parcel);
    }

    /// Sends those that are still wanted.
    fn send(mut self, caller: Option<&str>) -> Option<impl Future<Output = ()> + use<>> {
        let station = Arc::clone(&self.parcels.first()?.station);
        let now = Instant::now();
        // The others end by themselves, as not sent.
        self.parcels.retain(|parcel| parcel.letter.deadline > now);
        let number = station.set_out(&mut self.parcels, |parcel| parcel.id)?;
        let message = self.message(&station, number, caller);
        let error = match message.and_then(|message| station.publish_paced(&message, number)) {
            Ok(written) => return Some(written),
            Err(error) => error,
        };
        tracing::debug!(%error, "calls that were to share a message go by themselves");
        for parcel in &self.parcels {
            station.send_alone(parcel.id);
        }
        None
    }

    fn message(
        &self,
        station: &Station,
        number: u64,
        caller: Option<&str>,
    ) -> Result<Outgoing, Error> {
        let letter = match self.parcels.as_slice() {
            [] => return Err(Error::new(Kind::Closed)),
            [Parcel { letter, id, .. }] => {
                return Ok(letter.outgoing(caller, Some(station.address(*id)), false));
            }
            [Parcel { letter, .. }, ..] => letter,
        };
        let calls = self
            .parcels
            .iter()
            .map(|Parcel { id, letter, .. }| batch::BatchedCall {
                id: *id,
                method: letter.method.name(),
                time_left: milliseconds(letter.time_left()).into(),
                message_id: letter.message_id.as_deref(),
                arguments: &letter.body,
            });
        let body = batch::encode_calls(calls)
            .map_err(|error| Error::new(Kind::Encode).caused_by(error))?;
        let head = RequestHead {
            method: Some(CALLS_TYPE.to_owned()),
            reply_to: Some(station.reply_to().to_owned()),
            correlation_id: Some(station.several(number)),
            content_type: Some(letter.codec.content_type().to_owned()),
            time_left: Some(self.earliest.saturating_duration_since(Instant::now())),
            priority: letter.priority,
            caller: caller.map(str::to_owned),
            ..RequestHead::default()
        };
        Ok(letter.request(head, body))
    }
}
