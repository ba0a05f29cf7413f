//! The opening of a stream by its call, and the reply at its end.

use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};

use crate::client::call::decode;
use crate::client::handle::Client;
use crate::client::layered::LayeredCall;
use crate::client::options::CallOptions;
use crate::client::reply_queue::{OpenedStream, ReceivedReply};
use crate::client::request::CallRequest;
use crate::client::transport::Sending;
use crate::error::{CallError, Error, ErrorKind, Outcome};
use crate::service::Reply;

/// The first answer to a call that asks for a stream.
pub(super) enum FirstAnswer {
    Opened(OpenedStream),
    /// A reply instead of a stream.
    Reply(Reply),
}

/// Sends the request, and waits for the first answer. `is_upload` tells whether the call sends items.
///
/// # Errors
/// It was not answered in time; or the server has another version of the contract, in which the method takes items or
/// does not.
pub(super) async fn first_answer(
    client: Client,
    options: CallOptions,
    is_upload: bool,
) -> Result<(FirstAnswer, Arc<CallRequest>), Error> {
    let (request, reply) = send(client, options).await?;
    let opened = reply.opened_stream();
    let Some(stream) = opened.and_then(|opened| opened.take::<OpenedStream>()) else {
        return Ok((FirstAnswer::Reply(reply), request));
    };
    match (stream.peer.takes_items(), is_upload) {
        (true, false) => Err(unexpected(
            &request,
            "the method of this server takes a stream of items, and the call sends none",
        )),
        (false, true) => Err(unexpected(
            &request,
            "the method of this server takes no stream of items",
        )),
        _ => Ok((FirstAnswer::Opened(*stream), request)),
    }
}

/// As [`first_answer`]; a reply instead of a stream is an error.
pub(super) async fn open_stream<E: DeserializeOwned>(
    client: Client,
    options: CallOptions,
    is_upload: bool,
) -> Result<(OpenedStream, Arc<CallRequest>), CallError<E>> {
    match first_answer(client, options, is_upload).await? {
        (FirstAnswer::Opened(stream), request) => Ok((stream, request)),
        (FirstAnswer::Reply(reply), request) => Err(reply_without_stream(&request, reply)),
    }
}

/// The error of a call whose first answer is a reply: a status, mostly.
pub(super) fn reply_without_stream<E: DeserializeOwned>(
    request: &CallRequest,
    reply: Reply,
) -> CallError<E> {
    match decode::<IgnoredAny, E>(request, reply) {
        Ok(_) => value_without_stream(request).into(),
        Err(error) => error,
    }
}

/// The error of a method that returns no stream there.
pub(super) fn value_without_stream(request: &CallRequest) -> Error {
    unexpected(
        request,
        "the method has returned a value where a stream was expected",
    )
}

fn unexpected(request: &CallRequest, text: &str) -> Error {
    let error = request.failed(ErrorKind::Decode, Outcome::Answered);
    error.caused_by(text)
}

/// Sends the request, and waits until the stream is opened or refused.
async fn send(client: Client, options: CallOptions) -> Result<(Arc<CallRequest>, Reply), Error> {
    match client.inner.layers.clone() {
        None => {
            let mut call = Sending::start(client, options).done().await?;
            let reply = call.response().await?;
            Ok((call.shared_request(), reply))
        }
        Some(layers) => {
            let mut call = LayeredCall::start(&client, options, &layers)?;
            let reply = call.response().await?;
            Ok((call.into_request(), reply))
        }
    }
}

/// The reply that has ended a stream, with the codec that it is in.
///
/// # Errors
/// It is in an encoding that this client does not know, or was left out because it is over the limit of the size.
pub(super) fn reply_at_end(
    request: &CallRequest,
    received: ReceivedReply,
    limit: usize,
) -> Result<Reply, Error> {
    let ReceivedReply {
        reply,
        content_type,
        size,
        ..
    } = received;
    let failed = |kind| request.failed(kind, Outcome::Answered);
    if size > limit {
        return Err(failed(ErrorKind::TooLarge { size, limit }));
    }
    match request.codec.for_content_type(content_type.as_deref()) {
        Ok(codec) => Ok(reply.with_codec(codec)),
        Err(unknown) => {
            let text = format!("the reply is `{}`", unknown.name());
            Err(failed(ErrorKind::Decode).caused_by(text))
        }
    }
}
