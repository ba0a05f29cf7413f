//! Requests that open a stream: they are acknowledged when their stream begins, and its handler runs in a task of its
//! own, beyond the concurrency of the service.

use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::dispatch::Dispatcher;
use super::reply::ReplyRoute;
use super::stream::{ServerStream, StreamOpening, StreamRequest, StreamRun};
use crate::descriptor::MethodDescriptor;
use crate::link::Channel;
use crate::stream::ServedStream;
use crate::wire::status::{Code, Status};
use crate::worker::Settlement;

impl Dispatcher {
    /// Opens a stream, or refuses it. The request is acknowledged either way: a stream may outlast the broker's
    /// `consumer_timeout`, and must not be opened again if this server dies.
    pub(super) async fn open_stream(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        opening: StreamOpening,
    ) -> Settlement {
        let StreamOpening {
            method,
            codec,
            body,
            mut facts,
            arrived,
            route,
            credit,
            deadline,
        } = opening;
        let begun = match self.begin(channel, &route, credit, method).await {
            Ok(begun) => begun,
            // The request comes again, marked as redelivered, and is refused then.
            Err(_) if !channel.is_open() => return Settlement::Settled,
            Err(status) => {
                let message_id = facts.message.message_id.as_deref();
                let trace = &facts.message.trace;
                let reply = self.refuse(status, Some(method.name()), message_id, trace, arrived);
                return self.answer(channel, tag, reply, route);
            }
        };
        let (permit, stream) = begun;
        let drain = self.streams.signal();
        facts.extensions.insert(drain.clone());
        let metered = self.meter(Some(method)).start(arrived);
        let items: Arc<dyn ServedStream> = Arc::clone(&stream) as _;
        let execution = self
            .executor
            .prepare(method, codec, body, facts, metered, Some(items));
        let run = StreamRun {
            stream,
            executor: Arc::clone(&self.executor),
            replies: Arc::clone(&self.replies),
            drain,
            permit,
        };
        self.streams
            .spawn(run.run(execution, deadline), &self.tasks);
        Settlement::Ack
    }

    /// Takes a permit, and registers the stream with the queue of this session.
    ///
    /// # Errors
    /// The status that the request is refused with.
    async fn begin(
        &self,
        channel: &Arc<Channel>,
        route: &ReplyRoute,
        credit: Option<NonZeroU64>,
        method: &MethodDescriptor,
    ) -> Result<(OwnedSemaphorePermit, Arc<ServerStream>), Status> {
        let name = method.name();
        let does = if method.is_upload() {
            "takes"
        } else {
            "returns"
        };
        let refused = |code, text: String| Status::new(code, text);
        let (Some(reply_to), Some(correlation_id)) = (&route.reply_to, &route.correlation_id)
        else {
            let text = format!("`{name}` {does} a stream, which needs a reply queue");
            return Err(refused(Code::InvalidArgument, text));
        };
        let Some(credit) = credit else {
            let text = format!("`{name}` {does} a stream, and the caller did not ask for one");
            return Err(refused(Code::FailedPrecondition, text));
        };
        if self.replies.is_direct(route) {
            let text = format!("`{name}` {does} a stream, for which direct reply-to is of no use");
            return Err(refused(Code::FailedPrecondition, text));
        }
        if self.streams.is_draining() {
            let text = "the server is shutting down".to_owned();
            return Err(refused(Code::Unavailable, text));
        }
        let Ok(permit) = Arc::clone(&self.stream_permits).try_acquire_owned() else {
            let text = "the server has as many streams open as it may".to_owned();
            return Err(refused(Code::ResourceExhausted, text));
        };
        let session = channel.session();
        let queue = self.stream_queues.of(&self.stream_settings, session).await;
        let queue = queue.map_err(|error| {
            tracing::warn!(%error, "no queue for streams");
            refused(
                Code::Unavailable,
                "the server has no queue for streams".to_owned(),
            )
        })?;
        let request = StreamRequest {
            reply_to: reply_to.clone(),
            correlation_id: correlation_id.clone(),
            content_type: route.content_type.clone(),
            credit: credit.get(),
            max_item: self.replies.max_body(),
            is_upload: method.is_upload(),
        };
        let stream = queue.register(request).ok_or_else(|| {
            let text = format!("`{name}` was called before with this correlation id");
            refused(Code::Aborted, text)
        })?;
        Ok((permit, stream))
    }
}
