//! Streams of an implementation in this process.

use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::reply_queue::{OpenedStream, ReceivedReply, StreamEnd, StreamPeer, UploadSink};
use crate::error::Error;
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::service::{BoxFuture, Reply};
use crate::stream::{
    AcceptedUpload, Attached, Inbox, ItemSink, LocalSink, ServedStream, UPLOAD_WINDOW,
    UploadControl, UploadInbox, upload_cancelled,
};
use crate::wire::envelope::ReplyForm;
use crate::wire::status::Status;

/// A stream of an implementation in this process that a request asks for.
pub(super) struct LocalOpening {
    served: Arc<LocalServed>,
    inbox: Arc<Inbox<StreamEnd>>,
    upload: Arc<UploadInbox>,
}

impl LocalOpening {
    /// With the reader's window. `is_upload` tells whether the method takes items.
    pub(super) fn new(window: u32, is_upload: bool) -> Self {
        let inbox = Arc::new(Inbox::new(window));
        let upload = Arc::new(Inbox::new(UPLOAD_WINDOW));
        let served = LocalServed {
            items: LocalSink::new(&inbox, usize::MAX),
            inbox: Arc::clone(&inbox),
            upload: is_upload.then(|| Arc::clone(&upload)),
            is_accepted: AtomicBool::new(false),
        };
        Self {
            served: Arc::new(served),
            inbox,
            upload,
        }
    }

    /// The stream for the request.
    pub(super) fn served(&self) -> Arc<dyn ServedStream> {
        Arc::clone(&self.served) as _
    }

    /// Runs the handler of the request in a task of its own, which ends with the stream. The result is a reply that
    /// carries the stream, or the one that refuses it.
    pub(super) async fn open(
        self,
        method: &'static str,
        handler: impl Future<Output = HandlerEnd<Reply>> + Send + 'static,
    ) -> HandlerEnd<Reply> {
        let Self {
            served,
            inbox,
            upload,
        } = self;
        let task = AbortOnDropTask::spawn(guard(
            None,
            Box::pin(serve(Arc::clone(&served), method, handler)),
        ));
        let is_open = poll_fn(|cx| inbox.poll_opened(cx)).await;
        match inbox.take_end_unless(is_open) {
            Some(StreamEnd::Reply(received)) => HandlerEnd::Returned(received.reply),
            Some(StreamEnd::Lost(_) | StreamEnd::Fault(_)) => HandlerEnd::TimedOut,
            None => {
                let peer = Box::new(LocalStream {
                    _task: task,
                    inbox: Arc::clone(&inbox),
                    upload,
                    takes_items: served.is_accepted.load(Ordering::Acquire),
                });
                HandlerEnd::Returned(Reply::opened(Attached::new(OpenedStream { inbox, peer })))
            }
        }
    }
}

/// Runs the handler of a stream, until it or the stream ends.
async fn serve(
    served: Arc<LocalServed>,
    method: &'static str,
    handler: impl Future<Output = HandlerEnd<Reply>> + Send,
) {
    let mut handler = pin!(handler);
    let end = poll_fn(|cx| {
        // Before the last poll, in which a method that waits for an item gets the error.
        let is_closed = served.items.poll_closed(cx).is_ready();
        match handler.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if is_closed => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    if let Some(end) = end.await {
        served.end(Reply::of_end(method, end));
    }
}

/// The stream of a request, as its handler has it.
struct LocalServed {
    items: LocalSink<StreamEnd>,
    inbox: Arc<Inbox<StreamEnd>>,
    /// The items of the caller, if the method takes some.
    upload: Option<Arc<UploadInbox>>,
    is_accepted: AtomicBool,
}

impl LocalServed {
    /// Ends the stream with the reply of the handler.
    fn end(&self, reply: Reply) {
        self.inbox.end(StreamEnd::Reply(ReceivedReply {
            size: reply.body().len(),
            reply,
            form: ReplyForm::Single,
            content_type: None,
        }));
        if let Some(upload) = &self.upload {
            upload.end(Err(upload_cancelled("the method has ended")));
        }
    }
}

impl ServedStream for LocalServed {
    fn items(&self) -> &dyn ItemSink {
        &self.items
    }

    fn accept(self: Arc<Self>) -> Option<AcceptedUpload> {
        let inbox = Arc::clone(self.upload.as_ref()?);
        if self.is_accepted.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.inbox.open();
        let control = self;
        Some(AcceptedUpload { inbox, control })
    }
}

/// The inbox of the items wakes its sender itself.
impl UploadControl for LocalServed {
    fn grant(&self, _: u64) {}

    fn stop(&self) {}

    fn refuse(&self, status: Status) {
        self.end(Reply::failed(status));
    }
}

/// A stream of a handler in this process, as its caller has it.
struct LocalStream {
    _task: AbortOnDropTask<()>,
    inbox: Arc<Inbox<StreamEnd>>,
    upload: Arc<UploadInbox>,
    takes_items: bool,
}

impl StreamPeer for LocalStream {
    /// The inbox wakes the handler.
    fn grant(&self, _: u64) {}

    fn takes_items(&self) -> bool {
        self.takes_items
    }

    fn items_sent(&self) -> u64 {
        self.upload.received()
    }

    fn max_message(&self) -> usize {
        usize::MAX
    }

    fn upload_sink(&self) -> BoxFuture<Result<Arc<dyn UploadSink>, Error>> {
        let sink = LocalUpload {
            items: LocalSink::new(&self.upload, usize::MAX),
            upload: Arc::clone(&self.upload),
            inbox: Arc::clone(&self.inbox),
        };
        Box::pin(ready(Ok(Arc::new(sink) as _)))
    }
}

impl Drop for LocalStream {
    /// A task that the handler has left behind may read items.
    fn drop(&mut self) {
        let error = upload_cancelled("the caller has given the call up");
        self.upload.end(Err(error));
    }
}

/// The way of a call's items to a handler in this process.
struct LocalUpload {
    items: LocalSink<Result<(), Error>>,
    upload: Arc<UploadInbox>,
    inbox: Arc<Inbox<StreamEnd>>,
}

impl UploadSink for LocalUpload {
    fn items(&self) -> &dyn ItemSink {
        &self.items
    }

    fn finish(&self) {
        self.upload.end(Ok(()));
    }

    fn fail(&self, error: Error) {
        let cancelled = upload_cancelled("the caller has given the call up");
        self.upload.end(Err(cancelled));
        self.inbox.end(StreamEnd::Lost(error));
    }
}
