//! Streams of an implementation in this process.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::client::local::run;
use crate::client::reply_queue::{OpenedStream, ReceivedReply, StreamEnd, StreamPeer, UploadSink};
use crate::client::request::CallRequest;
use crate::error::Error;
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::service::{Reply, Request, Service};
use crate::stream::{
    AcceptedUpload, Attached, Inbox, ItemSink, LocalSink, ServedStream, SinkClosed, UPLOAD_WINDOW,
    UploadControl, UploadInbox, upload_cancelled,
};
use crate::wire::envelope::ReplyForm;
use crate::wire::status::Status;

/// Opens a stream of an implementation in this process. Its handler runs in a task of its own, which ends with the
/// stream. The result is a reply that carries the stream, or the one that refuses it.
pub(in crate::client) fn open_locally(
    service: Arc<dyn Service>,
    request: &CallRequest,
) -> impl Future<Output = HandlerEnd<Reply>> + Send + use<> {
    let inbox = Arc::new(Inbox::new(request.options.window));
    let upload = Arc::new(Inbox::new(UPLOAD_WINDOW));
    let own = service.descriptor().method_like(request.method());
    let served = Arc::new(LocalServed {
        items: LocalSink::new(&inbox, usize::MAX),
        inbox: Arc::clone(&inbox),
        upload: own
            .is_some_and(|own| own.is_upload())
            .then(|| Arc::clone(&upload)),
        is_accepted: AtomicBool::new(false),
    });
    let asked = own.map(|own| {
        let request = Request::new(own, request.codec, request.options.body.clone());
        request.with_stream(Some(Arc::clone(&served) as _))
    });
    let mut handler = Box::pin(run(service, request, asked, None));
    let method = request.method().name();
    async move {
        let serving = Arc::clone(&served);
        let running = Box::pin(async move {
            let end = poll_fn(|cx| match handler.as_mut().poll(cx) {
                Poll::Ready(end) => Poll::Ready(Some(end)),
                // It has got the error of its items, if it waits for one.
                Poll::Pending => serving.poll_closed(cx).map(|()| None),
            });
            if let Some(end) = end.await {
                serving.end(Reply::of_end(method, end));
            }
            drop(handler);
        });
        let task = AbortOnDropTask::spawn(guard(None, running));
        let is_open = poll_fn(|cx| inbox.poll_opened(cx)).await;
        match inbox.take_end_unless(is_open) {
            Some(StreamEnd::Reply(received)) => HandlerEnd::Returned(received.reply),
            Some(StreamEnd::Lost(_) | StreamEnd::Fault(_)) => HandlerEnd::TimedOut,
            None => {
                let peer = StreamPeer::Local(LocalStream {
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

impl ItemSink for LocalServed {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
        self.items.poll_credit(cx)
    }

    fn open(&self) -> Result<(), SinkClosed> {
        self.items.open()
    }

    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
        self.items.send(items)
    }

    fn max_item(&self) -> usize {
        self.items.max_item()
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.items.poll_closed(cx)
    }
}

impl ServedStream for LocalServed {
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
pub(in crate::client) struct LocalStream {
    _task: AbortOnDropTask<()>,
    inbox: Arc<Inbox<StreamEnd>>,
    upload: Arc<UploadInbox>,
    takes_items: bool,
}

impl LocalStream {
    /// Whether the method takes items.
    pub(in crate::client) fn takes_items(&self) -> bool {
        self.takes_items
    }

    /// The number of items that were sent to the method.
    pub(in crate::client) fn items_sent(&self) -> u64 {
        self.upload.received()
    }

    /// The way of items to the method.
    pub(in crate::client) fn upload_sink(&self) -> Arc<dyn UploadSink> {
        Arc::new(LocalUpload {
            items: LocalSink::new(&self.upload, usize::MAX),
            upload: Arc::clone(&self.upload),
            inbox: Arc::clone(&self.inbox),
        })
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

impl ItemSink for LocalUpload {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
        self.items.poll_credit(cx)
    }

    fn open(&self) -> Result<(), SinkClosed> {
        Ok(())
    }

    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
        self.items.send(items)
    }

    fn max_item(&self) -> usize {
        self.items.max_item()
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.items.poll_closed(cx)
    }
}

impl UploadSink for LocalUpload {
    fn finish(&self) {
        self.upload.end(Ok(()));
    }

    fn fail(&self, error: Error) {
        let cancelled = upload_cancelled("the caller has given the call up");
        self.upload.end(Err(cancelled));
        self.inbox.end(StreamEnd::Lost(error));
    }
}
