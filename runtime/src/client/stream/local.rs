//! Streams of an implementation in this process, without a broker.

use std::future::poll_fn;
use std::sync::Arc;

use crate::client::local::run;
use crate::client::reply_queue::{OpenedStream, ReceivedReply, StreamEnd, StreamPeer};
use crate::client::request::CallRequest;
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::service::{Reply, Request, Service};
use crate::stream::{Attached, Inbox, LocalSink};
use crate::wire::envelope::ReplyForm;

/// Opens a stream of an implementation in this process. Its handler runs in a task of its own, which ends with the
/// stream. The result is a reply that carries the stream, or the one that refuses it.
pub(in crate::client) fn open_locally(
    service: Arc<dyn Service>,
    request: &CallRequest,
) -> impl Future<Output = HandlerEnd<Reply>> + Send + use<> {
    let inbox = Arc::new(Inbox::new(request.options.window));
    let sink = LocalSink::new(&inbox, usize::MAX);
    let own = service.descriptor().method_like(request.method());
    let body = request.options.body.clone();
    let asked =
        own.map(|own| Request::new(own, request.codec, body).with_items(Some(Arc::new(sink))));
    let handler = run(service, request, asked, None);
    let method = request.method().name();
    async move {
        let ending = Arc::clone(&inbox);
        let task = AbortOnDropTask::spawn(guard(None, async move {
            let reply = Reply::of_end(method, handler.await);
            ending.end(StreamEnd::Reply(ReceivedReply {
                size: reply.body().len(),
                reply,
                form: ReplyForm::Single,
                content_type: None,
            }));
        }));
        let is_open = poll_fn(|cx| inbox.poll_opened(cx)).await;
        match inbox.take_end_unless(is_open) {
            Some(StreamEnd::Reply(received)) => HandlerEnd::Returned(received.reply),
            Some(StreamEnd::Lost(_) | StreamEnd::Fault(_)) => HandlerEnd::TimedOut,
            None => {
                let peer = StreamPeer::Local { _task: task };
                let stream = OpenedStream { inbox, peer };
                HandlerEnd::Returned(Reply::opened(Attached::new(stream)))
            }
        }
    }
}
