//! One stream at its server: the credit that its client has given, the messages of its items, and the items that its
//! client sends.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::outlet::{StreamOutlet, StreamTable, stream_key};
use crate::error::{Error, ErrorKind};
use crate::policy::stream::{SendCredit, StreamFault};
use crate::random;
use crate::service::Reply;
use crate::stream::{
    AcceptedUpload, Inbox, ItemSink, ServedStream, SinkClosed, UPLOAD_WINDOW, UploadControl,
    UploadInbox, items_message, upload_cancelled,
};
use crate::sync::lock;
use crate::wire::batch::{Items, encode_credit};
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
    /// Its client has broken the rules, or has sent an item that the method cannot take.
    Refused(Status),
}

impl CloseReason {
    /// The error with which the items of the client end.
    fn into_error(self) -> Error {
        let (kind, text) = match self {
            Self::Cancelled => return upload_cancelled("the caller has given the call up"),
            Self::Refused(status) => {
                return Error::new(ErrorKind::Decode).caused_by(status.message());
            }
            Self::ClientGone => (
                ErrorKind::Disconnected,
                "the caller has lost its connection or has ended".to_owned(),
            ),
            Self::Lost => (
                ErrorKind::Disconnected,
                "this server has lost its connection".to_owned(),
            ),
            Self::ChannelClosed(text) => (ErrorKind::Disconnected, text),
        };
        Error::new(kind).caused_by(text)
    }
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
    /// The items of the client, if the method takes some.
    upload: Option<Arc<UploadInbox>>,
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
    /// Whether the method takes items of the client.
    pub(crate) is_upload: bool,
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
            is_upload,
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
            upload: is_upload.then(|| Arc::new(Inbox::new(UPLOAD_WINDOW))),
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

    /// Whether the method takes items of the client.
    pub(super) fn is_upload(&self) -> bool {
        self.upload.is_some()
    }

    /// Receives a message about the items of the client. Runs on the I/O task.
    pub(super) fn receive(&self, kind: StreamMessage, position: &StreamPosition, body: Bytes) {
        if let Err(fault) = self.received(kind, position, body) {
            let status = Status::new(Code::InvalidArgument, fault.to_string());
            self.close(CloseReason::Refused(status));
        }
    }

    fn received(
        &self,
        kind: StreamMessage,
        position: &StreamPosition,
        body: Bytes,
    ) -> Result<(), StreamFault> {
        let items = match kind {
            StreamMessage::Item => Items::one(body),
            StreamMessage::Items => Items::several(body).map_err(|_| StreamFault::Malformed)?,
            StreamMessage::End => Items::none(),
            // Probes and credit have no items, and the others are messages of a server, sent here by mistake.
            StreamMessage::Open
            | StreamMessage::Credit
            | StreamMessage::Probe
            | StreamMessage::Stop => return Ok(()),
        };
        if !self.is_run(&position.run) {
            return Err(StreamFault::ForeignRun);
        }
        let Some(inbox) = self.upload.as_ref().filter(|_| self.is_open()) else {
            return Err(StreamFault::OverCredit { allowed: 0 });
        };
        if kind == StreamMessage::End {
            inbox.check(position.number)?;
            inbox.end(Ok(()));
            return Ok(());
        }
        inbox.push(position.number, items)
    }

    /// Ends the items of the client, if they have not ended.
    pub(super) fn end_upload(&self, error: impl FnOnce() -> Error) {
        if let Some(inbox) = &self.upload {
            inbox.end(Err(error()));
        }
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
        let reason = state.closed.get_or_insert(reason).clone();
        // Under the same lock: the method finds the error when it is polled for the last time, and its reply to a bad
        // item does not go before the refusal.
        let ended = self.upload.as_ref();
        let ended = ended.map(|inbox| inbox.set_end(Err(reason.into_error())));
        let wakers = [state.producer.take(), state.watcher.take()];
        drop(state);
        let wakers = wakers.into_iter().chain(ended.into_iter().flatten());
        wakers.flatten().for_each(Waker::wake);
    }

    /// The reason, if the stream ends because of its client.
    pub(super) fn refusal(&self) -> Option<CloseReason> {
        let reason = lock(&self.state).closed.clone();
        reason.filter(|reason| matches!(reason, CloseReason::Refused(_)))
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

    /// The message of the end.
    fn end_message(&self, state: &ServerStreamState, reply: Reply) -> Outgoing {
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
        self.message(properties, body)
    }

    /// Sends the end, behind the items. If their channel is closed, so that some of them may be lost, the client gets
    /// the status `unavailable` instead.
    pub(super) async fn finish(&self, reply: Reply) {
        if self.finish_on_channel(reply).is_err() {
            // On the heap, so that the task of each stream stays small.
            Box::pin(self.send_on_spare("it is closed")).await;
        }
    }

    /// Sends the end on the channel of the items, unless the stream was ended before.
    ///
    /// # Errors
    /// The channel is closed. The stream is ended all the same.
    fn finish_on_channel(&self, reply: Reply) -> Result<(), SinkClosed> {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.is_ended, true) {
            return Ok(());
        }
        let appended = self.outlet.append(&self.end_message(&state, reply));
        drop(state);
        self.remove();
        appended.map_err(|_| SinkClosed)?;
        self.outlet.flush();
        Ok(())
    }

    /// Ends the stream without telling the client, which has given it up or is gone.
    pub(super) fn forget(&self) {
        lock(&self.state).is_ended = true;
        self.remove();
    }

    /// Removes a stream that has ended. A task that the method has left behind may read items of the client.
    fn remove(&self) {
        self.table.remove(&self.key);
        self.end_upload(|| upload_cancelled("the method has ended"));
    }

    /// Ends a stream whose channel the broker has closed for this reason.
    pub(super) async fn finish_on_spare(&self, reason: &str) {
        let was_ended = std::mem::replace(&mut lock(&self.state).is_ended, true);
        self.remove();
        if !was_ended {
            Box::pin(self.send_on_spare(reason)).await;
        }
    }

    /// Tells the client of the end of a stream whose channel is closed.
    async fn send_on_spare(&self, reason: &str) {
        let text = format!("the broker closed the channel of the stream: {reason}");
        let reply = Reply::failed(Status::new(Code::Unavailable, text));
        let message = self.end_message(&lock(&self.state), reply);
        // Without a session, the client learns of the loss by itself.
        if let Err(error) = self.outlet.publish_on_spare(&message).await {
            tracing::debug!(%error, "the end of a stream was not sent");
        }
    }
}

/// Ends a stream whose task is dropped, because its server is.
pub(super) struct FinishOnDrop(pub(super) Arc<ServerStream>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        let status = Status::new(Code::Unavailable, "the server has stopped");
        if self.0.finish_on_channel(Reply::failed(status)).is_err() {
            tracing::debug!("the end of a stream was not sent, because its channel is closed");
        }
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
        let (kind, body) = items_message(items);
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

impl ServedStream for ServerStream {
    fn items(&self) -> &dyn ItemSink {
        self
    }

    fn accept(self: Arc<Self>) -> Option<AcceptedUpload> {
        let inbox = Arc::clone(self.upload.as_ref()?);
        let credit = encode_credit(inbox.granted()).ok()?;
        let mut state = lock(&self.state);
        if state.is_open {
            return None;
        }
        self.append(&mut state, StreamMessage::Open, credit, 0)
            .ok()?;
        drop(state);
        self.outlet.flush();
        let control = self;
        Some(AcceptedUpload { inbox, control })
    }
}

impl ServerStream {
    /// Sends a message about the items of the client.
    fn answer_upload(&self, kind: StreamMessage, body: Bytes) {
        let mut state = lock(&self.state);
        let sent = self.append(&mut state, kind, body, 0);
        drop(state);
        // Otherwise the stream has ended, or is about to.
        if sent.is_ok() {
            self.outlet.flush();
        }
    }
}

impl UploadControl for ServerStream {
    fn grant(&self, total: u64) {
        // Cannot fail: it is a number.
        if let Ok(body) = encode_credit(total) {
            self.answer_upload(StreamMessage::Credit, body);
        }
    }

    fn stop(&self) {
        self.answer_upload(StreamMessage::Stop, Bytes::new());
    }

    fn refuse(&self, status: Status) {
        self.close(CloseReason::Refused(status));
    }
}

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerStream")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}
