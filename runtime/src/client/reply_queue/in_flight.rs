//! Calls in flight on a reply queue: each waits here from its registration until it is completed.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::error::Error;
use crate::policy::in_flight::InFlightTable;
use crate::policy::refusal::Traits;
use crate::service::Reply;
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::envelope::ReplyForm;

/// The completion of a call in flight.
#[derive(Debug)]
pub(in crate::client) enum CallCompletion {
    Reply(ReceivedReply),
    /// The broker returned the request (`basic.return`): no queue took it.
    Returned,
    /// The broker closed the channel over this request. It was not executed.
    Refused(Error),
    /// No reply can come any more. The request may have been executed.
    Lost(Error),
    /// The call was not executed and is to be sent in a message of its own: its batch was not sent or was refused,
    /// or the broker closed the channel over an earlier request. With `batch_refused`, the server does not accept
    /// batches.
    SendAlone {
        batch_refused: bool,
    },
}

/// A reply as it was received: the message, whose size and encoding are checked by the call that it is for. The
/// I/O task, which makes it, does not know the request.
#[derive(Debug)]
pub(in crate::client) struct ReceivedReply {
    pub(in crate::client) reply: Reply,
    pub(in crate::client) form: ReplyForm,
    pub(in crate::client) content_type: Option<String>,
    /// The body's size in bytes, even if the body was left out because it is too large.
    pub(in crate::client) size: usize,
}

/// The message in which a call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum CallMessage {
    /// Not decided: the call waits to be put into a batch.
    Queued,
    /// A message of its own.
    Own,
    /// The batch of this number, which is the id of its first call.
    Batch(u64),
}

/// A message that was published on the channel for requests: its position among all of them, and the
/// traits by which the broker may refuse it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublishedMessage {
    pub(super) position: u64,
    pub(super) traits: Traits,
}

#[derive(Debug)]
struct CallEntry {
    message: CallMessage,
    /// Whether its message was written, or is about to be.
    is_sent: bool,
    /// Set once the message is published on the channel for requests.
    published: Option<PublishedMessage>,
    /// The window of the stream that it asks for; 0 if it asks for none.
    window: u32,
    completion: oneshot::Sender<CallCompletion>,
}

/// The calls in flight on one reply queue, by their ids.
#[derive(Debug)]
pub(super) struct InFlightCalls {
    /// `None` once no reply can come any more.
    table: Mutex<Option<InFlightTable<CallEntry>>>,
    counters: Arc<Counters>,
}

impl InFlightCalls {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            table: Mutex::new(Some(InFlightTable::default())),
            counters,
        }
    }

    fn table(&self) -> MutexGuard<'_, Option<InFlightTable<CallEntry>>> {
        lock(&self.table)
    }

    /// Registers a call, which asks for a stream if `window` is not 0, and gives its id. `None` if no reply can come
    /// any more.
    pub(super) fn register(
        &self,
        message: CallMessage,
        window: u32,
    ) -> Option<(u64, oneshot::Receiver<CallCompletion>)> {
        let (sender, completion) = oneshot::channel();
        let entry = CallEntry {
            message,
            is_sent: false,
            published: None,
            window,
            completion: sender,
        };
        let id = self.table().as_mut()?.insert(entry);
        self.counters.pending_calls.add();
        Some((id, completion))
    }

    /// Removes a call that nobody waits for any more.
    pub(super) fn remove(&self, id: u64) {
        drop(self.take(id));
    }

    /// Removes a call whose stream was opened. The result is the stream's window, and where the call waits.
    pub(super) fn take_opening(&self, id: u64) -> Option<(u32, oneshot::Sender<CallCompletion>)> {
        let entry = self.take_if(id, |entry| entry.window > 0)?;
        Some((entry.window, entry.completion))
    }

    /// Removes a call that its caller gives up. Returns its message if that was sent; `None` if it was not, or if
    /// the call is completed already.
    pub(super) fn give_up(&self, id: u64) -> Option<CallMessage> {
        let entry = self.take(id)?;
        entry.is_sent.then_some(entry.message)
    }

    /// Notes that the message of a call was published on another channel than that for requests.
    pub(super) fn set_sent(&self, id: u64) {
        let mut table = self.table();
        if let Some(entry) = table.as_mut().and_then(|table| table.get_mut(id)) {
            entry.is_sent = true;
        }
    }

    fn take(&self, id: u64) -> Option<CallEntry> {
        self.take_if(id, |_| true)
    }

    fn take_if(&self, id: u64, condition: impl Fn(&CallEntry) -> bool) -> Option<CallEntry> {
        let entry = self.table().as_mut()?.remove_if(id, condition);
        if entry.is_some() {
            self.counters.pending_calls.remove();
        }
        entry
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table().as_ref().is_none_or(InFlightTable::is_empty)
    }

    /// Whether the message of a call is not decided yet.
    pub(super) fn is_queued(&self, id: u64) -> bool {
        self.message_of(id) == Some(CallMessage::Queued)
    }

    fn message_of(&self, id: u64) -> Option<CallMessage> {
        let mut table = self.table();
        table.as_mut()?.get_mut(id).map(|entry| entry.message)
    }

    /// Notes that the message of these calls was published. Each call knows it for itself, because any other call
    /// of its batch may end before it.
    pub(super) fn set_published(
        &self,
        ids: impl IntoIterator<Item = u64>,
        published: PublishedMessage,
    ) {
        let mut table = self.table();
        let Some(table) = table.as_mut() else { return };
        for id in ids {
            if let Some(entry) = table.get_mut(id) {
                entry.is_sent = true;
                entry.published = Some(published);
            }
        }
    }

    /// Puts calls into one message. Calls that are no longer registered are removed from the list. The
    /// result is the id of the first call; `None` if none is left.
    pub(super) fn assign_message<T>(
        &self,
        calls: &mut Vec<T>,
        id: impl Fn(&T) -> u64,
    ) -> Option<u64> {
        let mut table = self.table();
        let table = table.as_mut()?;
        calls.retain(|call| table.get_mut(id(call)).is_some());
        let first = id(calls.first()?);
        let message = if calls.len() == 1 {
            CallMessage::Own
        } else {
            CallMessage::Batch(first)
        };
        for call in calls {
            if let Some(entry) = table.get_mut(id(call)) {
                entry.message = message;
                // It is published next. If that fails, the call is completed, and no longer in flight.
                entry.is_sent = true;
            }
        }
        Some(first)
    }

    /// Completes a call. `false` if it is not registered, or no longer.
    pub(super) fn complete(&self, id: u64, completion: CallCompletion) -> bool {
        Self::complete_entry(self.take(id), completion)
    }

    fn complete_entry(entry: Option<CallEntry>, completion: CallCompletion) -> bool {
        match entry {
            Some(entry) => {
                // The receiver may be gone: its call was dropped at this moment.
                drop(entry.completion.send(completion));
                true
            }
            None => false,
        }
    }

    /// Completes a call of a batch. `false` if it was not sent in that batch: a reply to one batch cannot
    /// complete a call of another.
    pub(super) fn complete_in_batch(
        &self,
        batch: u64,
        id: u64,
        completion: CallCompletion,
    ) -> bool {
        let is_in_batch = |entry: &CallEntry| entry.message == CallMessage::Batch(batch);
        Self::complete_entry(self.take_if(id, is_in_batch), completion)
    }

    /// Completes all calls of a batch in the same way.
    pub(super) fn complete_batch(&self, batch: u64, completion: impl Fn() -> CallCompletion) {
        let is_in_batch = |entry: &CallEntry| entry.message == CallMessage::Batch(batch);
        let entries = self
            .table()
            .as_mut()
            .map(|table| table.remove_where(is_in_batch));
        for entry in entries.into_iter().flatten() {
            self.counters.pending_calls.remove();
            drop(entry.completion.send(completion()));
        }
    }

    /// Completes the calls that end because the broker closed the channel for requests.
    pub(super) fn channel_refused(&self, reason: &Error) {
        let mut completed = Vec::new();
        if let Some(table) = self.table().as_mut() {
            for (id, completion) in completions_after_refusal(table, reason) {
                completed.extend(table.remove(id).map(|entry| (entry, completion)));
            }
        }
        for (entry, completion) in completed {
            self.counters.pending_calls.remove();
            drop(entry.completion.send(completion));
        }
    }

    /// Completes all calls as lost. No call can be registered after this.
    pub(super) fn fail_all(&self, reason: &Error) {
        let table = self.table().take();
        for entry in table.into_iter().flat_map(InFlightTable::into_values) {
            self.counters.pending_calls.remove();
            drop(entry.completion.send(CallCompletion::Lost(reason.clone())));
        }
    }
}

/// The calls that end because the broker closed the channel for requests over one message, and their
/// completions.
///
/// The broker handles the messages of a channel in their order. It has taken those before the message
/// that it refused, and their replies may still come; it has dropped those after it.
fn completions_after_refusal(
    table: &InFlightTable<CallEntry>,
    reason: &Error,
) -> Vec<(u64, CallCompletion)> {
    let refused = table
        .iter()
        .filter_map(|(_, entry)| entry.published)
        .filter(|published| published.traits.are_refused_by(reason))
        .map(|published| published.position)
        .min();
    let completion = |entry: &CallEntry| {
        // A message that is not published yet will not be: publishing it fails, and its calls are sent otherwise.
        let position = entry.published?.position;
        let is_own = entry.message == CallMessage::Own;
        match refused.map(|refused| position.cmp(&refused)) {
            Some(Ordering::Less) => None,
            Some(Ordering::Equal) if is_own => Some(CallCompletion::Refused(reason.clone())),
            // A call of the refused batch may be accepted in a message of its own. If it is the cause, it
            // is refused there.
            Some(_) => Some(CallCompletion::SendAlone {
                batch_refused: false,
            }),
            None => Some(CallCompletion::Lost(reason.clone())),
        }
    };
    table
        .iter()
        .filter_map(|(id, entry)| Some((id, completion(entry)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::wire::message::{Outgoing, Properties};
    use crate::wire::value::{Table, Value};
    use bytes::Bytes;

    /// A message, published at this position, that the broker refuses if it has a `CC` of another type than a list.
    fn published(position: u64, cc: Option<Value>) -> PublishedMessage {
        let headers: Table = cc.map(|cc| ("CC".to_owned(), cc)).into_iter().collect();
        let message = Outgoing {
            exchange: String::new(),
            routing_key: "calculator".into(),
            mandatory: true,
            properties: Properties {
                headers,
                ..Properties::default()
            },
            body: Bytes::new(),
        };
        let traits = Traits::of(&message);
        PublishedMessage { position, traits }
    }

    #[test]
    fn a_call_that_is_given_up_has_a_message_if_it_was_sent() {
        let calls = InFlightCalls::new(Arc::default());
        let register = |message| calls.register(message, 0).unwrap().0;
        let (queued, own, sent, elsewhere) = (
            register(CallMessage::Queued),
            register(CallMessage::Own),
            register(CallMessage::Own),
            register(CallMessage::Own),
        );
        calls.set_published([sent], published(0, None));
        calls.set_sent(elsewhere);
        let (first, second, alone) = (
            register(CallMessage::Queued),
            register(CallMessage::Queued),
            register(CallMessage::Queued),
        );
        calls.assign_message(&mut vec![first, second], |id| *id);
        calls.assign_message(&mut vec![alone], |id| *id);
        for (id, message) in [
            (queued, None),
            (own, None),
            (sent, Some(CallMessage::Own)),
            (elsewhere, Some(CallMessage::Own)),
            (first, Some(CallMessage::Batch(first))),
            (second, Some(CallMessage::Batch(first))),
            (alone, Some(CallMessage::Own)),
            // Not again.
            (sent, None),
        ] {
            assert_eq!(calls.give_up(id), message);
        }
        assert!(calls.is_empty());
    }

    /// The first call of a batch may have been answered when the broker closes the channel. The others of the batch
    /// are before the refused message all the same, and their replies come.
    #[test]
    fn calls_of_a_batch_before_a_refused_message_go_on() {
        let calls = InFlightCalls::new(Arc::default());
        let register = |message| calls.register(message, 0).unwrap();
        let (first, _first) = register(CallMessage::Queued);
        let (second, mut second_completion) = register(CallMessage::Queued);
        assert_eq!(
            calls.assign_message(&mut vec![first, second], |id| *id),
            Some(first)
        );
        calls.set_published([first, second], published(0, None));
        let (refused, mut refused_completion) = register(CallMessage::Own);
        calls.set_published([refused], published(1, Some(Value::Int(1))));
        let (unsent, mut unsent_completion) = register(CallMessage::Own);
        calls.remove(first);

        let text =
            "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",long}";
        let (code, text) = (406, text.to_owned());
        calls.channel_refused(&Error::new(ErrorKind::Broker { code, text }));
        assert!(matches!(
            refused_completion.try_recv(),
            Ok(CallCompletion::Refused(_))
        ));
        for completion in [&mut second_completion, &mut unsent_completion] {
            assert!(completion.try_recv().is_err(), "it goes on");
        }
        assert!(calls.message_of(second).is_some() && calls.message_of(unsent).is_some());
    }
}
