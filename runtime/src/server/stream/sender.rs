//! One stream at its server: the credit that its client has given, and the messages of its items.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::outlet::{StreamOutlet, StreamTable, stream_key};

use crate::policy::stream::SendCredit;
use crate::random;
use crate::service::Reply;
use crate::stream::{ItemSink, SinkClosed};
use crate::sync::lock;
use crate::wire::batch::encode_items;
use crate::wire::envelope::{ReplyForm, ReplyHead, StreamHead, StreamMessage, StreamPosition};
use crate::wire::message::Outgoing;
use crate::wire::status::{Code, Status};

/// The reason for which a stream ends before its handler does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// Its client has given it up.
    Cancelled,
    /// The reply queue of its client is gone.
    ClientGone,
    /// The connection to the broker was lost.
    Lost,
    /// The broker closed the channel of the items, with this text, so that some were lost.
    ChannelClosed(String),
}

/// A stream that is open, or about to be.
pub(crate) struct ServerStream {
    outlet: Arc<StreamOutlet>,
    table: Arc<StreamTable<Self>>,
    key: Vec<u8>,
    reply_to: String,
    correlation_id: Vec<u8>,
    /// The content type of the end, if the request has none.
    content_type: Option<String>,
    /// This execution.
    run: String,
    max_item: usize,
    state: Mutex<ServerStreamState>,
}

struct ServerStreamState {
    credit: SendCredit,
    /// Whether the client knows of the stream, by its opening or by an item.
    is_open: bool,
    is_ended: bool,
    closed: Option<CloseReason>,
    /// Whether something was sent since the last probe was due.
    is_active: bool,
    producer: Option<Waker>,
    /// The task of the stream, which waits for the reason.
    watcher: Option<Waker>,
}

/// The request of a stream, as its messages need it.
pub(crate) struct StreamRequest {
    pub(crate) reply_to: String,
    pub(crate) correlation_id: Vec<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) credit: u64,
    pub(crate) max_item: usize,
}

impl ServerStream {
    /// Registers a stream with its queue. `None` if there is one of the same reply queue and correlation id, or if
    /// the queue was lost.
    pub(super) fn register(
        outlet: &Arc<StreamOutlet>,
        table: &Arc<StreamTable<Self>>,
        request: StreamRequest,
    ) -> Option<Arc<Self>> {
        let StreamRequest {
            reply_to,
            correlation_id,
            content_type,
            credit,
            max_item,
        } = request;
        let key = stream_key(&reply_to, &correlation_id);
        let stream = Arc::new(Self {
            outlet: Arc::clone(outlet),
            table: Arc::clone(table),
            key,
            reply_to,
            correlation_id,
            content_type,
            run: random::identity(),
            max_item,
            state: Mutex::new(ServerStreamState {
                credit: SendCredit::new(credit),
                is_open: false,
                is_ended: false,
                closed: None,
                is_active: true,
                producer: None,
                watcher: None,
            }),
        });
        table.insert(&stream.key, &stream).then_some(stream)
    }

    pub(super) fn is_run(&self, run: &str) -> bool {
        self.run == run
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).is_open
    }

    /// The client allows so many items in total.
    pub(super) fn grant(&self, total: u64) {
        let mut state = lock(&self.state);
        let producer = if state.credit.grant(total) {
            state.producer.take()
        } else {
            None
        };
        drop(state);
        producer.into_iter().for_each(Waker::wake);
    }

    /// Ends the stream. The first reason stays.
    pub(super) fn close(&self, reason: CloseReason) {
        let mut state = lock(&self.state);
        state.closed.get_or_insert(reason);
        let wakers = [state.producer.take(), state.watcher.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Completes when the stream is to end.
    pub(super) async fn closed(&self) -> CloseReason {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if let Some(reason) = &state.closed {
                return Poll::Ready(reason.clone());
            }
            state.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Sends a probe, unless something else was sent since the last one was due. It is returned if the client is
    /// gone.
    pub(super) fn probe(&self) {
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.is_active) || !state.is_open || state.is_ended {
            return;
        }
        let sent = self.append(&mut state, StreamMessage::Probe, Bytes::new(), 0);
        // The next one is due all the same.
        state.is_active = false;
        drop(state);
        if sent.is_ok() {
            self.outlet.flush();
        }
    }

    /// Appends a message, under the lock of the state so that numbers have the order of the messages.
    fn append(
        &self,
        state: &mut ServerStreamState,
        kind: StreamMessage,
        body: Bytes,
        items: u64,
    ) -> Result<(), SinkClosed> {
        if state.closed.is_some() || state.is_ended {
            return Err(SinkClosed);
        }
        let head = StreamHead {
            kind,
            correlation_id: self.correlation_id.clone(),
            reply_to: self.outlet.queue.clone(),
            position: self.position(state),
        };
        let message = self.message(head.into_properties(), body);
        if let Err(error) = self.outlet.append(&message) {
            // The handler of the channel tells the reason.
            tracing::debug!(%error, "a message of a stream was not sent");
            return Err(SinkClosed);
        }
        state.credit.send(items);
        state.is_open = true;
        state.is_active = true;
        Ok(())
    }

    fn position(&self, state: &ServerStreamState) -> StreamPosition {
        StreamPosition {
            run: self.run.clone(),
            number: state.credit.sent(),
        }
    }

    fn message(&self, properties: crate::wire::message::Properties, body: Bytes) -> Outgoing {
        Outgoing {
            exchange: String::new(),
            routing_key: self.reply_to.clone(),
            mandatory: true,
            properties,
            body,
        }
    }

    /// The message of the end. `None` if the stream was ended before.
    fn end_message(&self, state: &mut ServerStreamState, reply: Reply) -> Option<Outgoing> {
        if std::mem::replace(&mut state.is_ended, true) {
            return None;
        }
        let (status, body, headers) = reply.into_parts();
        let head = ReplyHead {
            status,
            form: ReplyForm::Single,
            correlation_id: Some(self.correlation_id.clone()),
            content_type: self.content_type.clone(),
            server: self.outlet.app_id.clone(),
            headers,
        };
        let mut properties = head.into_properties();
        properties.message_id = Some(self.position(state).to_string());
        Some(self.message(properties, body))
    }

    /// Sends the end, behind the items.
    pub(super) fn finish(&self, reply: Reply) {
        let mut state = lock(&self.state);
        let message = self.end_message(&mut state, reply);
        let appended = message.map(|message| self.outlet.append(&message));
        drop(state);
        self.table.remove(&self.key);
        match appended {
            None => {}
            Some(Ok(())) => self.outlet.flush(),
            Some(Err(error)) => tracing::debug!(%error, "the end of a stream was not sent"),
        }
    }

    /// Ends the stream without telling the client, which has given it up or is gone.
    pub(super) fn forget(&self) {
        lock(&self.state).is_ended = true;
        self.table.remove(&self.key);
    }

    /// Sends the end of a stream whose channel the broker has closed.
    pub(super) async fn finish_on_spare(&self, reply: Reply) {
        let message = self.end_message(&mut lock(&self.state), reply);
        self.table.remove(&self.key);
        if let Some(message) = message
            && let Err(error) = self.outlet.publish_on_spare(&message).await
        {
            tracing::debug!(%error, "the end of a stream was not sent");
        }
    }
}

/// Ends a stream whose task is dropped, because its server is.
pub(super) struct FinishOnDrop(pub(super) Arc<ServerStream>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        let status = Status::new(Code::Unavailable, "the server has stopped");
        self.0.finish(Reply::failed(status));
    }
}

impl ItemSink for ServerStream {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
        let mut state = lock(&self.state);
        if state.closed.is_some() || state.is_ended {
            return Poll::Ready(Err(SinkClosed));
        }
        match state.credit.left() {
            0 => {
                state.producer = Some(cx.waker().clone());
                Poll::Pending
            }
            left => Poll::Ready(Ok(left)),
        }
    }

    fn open(&self) -> Result<(), SinkClosed> {
        let mut state = lock(&self.state);
        if state.is_open {
            return Ok(());
        }
        self.append(&mut state, StreamMessage::Open, Bytes::new(), 0)?;
        drop(state);
        self.outlet.flush();
        Ok(())
    }

    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
        let (kind, body) = match items {
            [item] => (StreamMessage::Item, item.clone()),
            items => (StreamMessage::Items, encode_items(items)),
        };
        let mut state = lock(&self.state);
        self.append(&mut state, kind, body, items.len() as u64)?;
        drop(state);
        self.outlet.flush();
        Ok(())
    }

    fn max_item(&self) -> usize {
        self.max_item
    }
}

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerStream")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}
