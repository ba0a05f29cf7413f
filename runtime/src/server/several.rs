//! A request that carries several calls: each is handled by itself, and replies that are ready at
//! the same time share a message.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::dispatch::{Address, Content, Dispatcher, Route, Site, With, Work};
use super::in_doubt::Origin;
use crate::context::Invocation;
use crate::link::{Channel, Flush};
use crate::service::Reply;
use crate::wire::batch::{self, Answer, Call};
use crate::wire::codec::Codec;
use crate::wire::envelope::{Form, ReplyStatus, RequestHead};
use crate::wire::message::MessageInfo;
use crate::wire::status::{Code, Status};
use crate::worker::{HEAVY, Settlement};

/// How large a message of several replies becomes before the next one is begun.
const FULL: usize = 64 * 1024;
/// The most bytes that a reply takes beside its body and the text of its status, with all that is
/// of the whole message.
const OVERHEAD: usize = 64;

impl Dispatcher {
    /// Answers all the calls of a request, which is acknowledged when they are done.
    pub(super) async fn answer_several(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        mut head: RequestHead,
        content: Content,
    ) -> Settlement {
        if !self.may_answer(channel, &head) {
            return Settlement::Ack;
        }
        let read = self.check_size(content.size).and_then(|()| {
            let codec = self.codec(head.content_type.as_deref())?;
            Ok((codec, calls(&content.body)?))
        });
        let to = self.address(&mut head);
        let settled = self.acknowledge_first(channel, tag, &to, content.redelivered);
        let with = With::request(tag, settled);
        let origin = Origin {
            is_acknowledged: settled,
            ..Origin::of(None, content.size)
        };
        let settlement = match read {
            Ok((codec, calls)) => {
                let mut replies = Replies::new(self, channel, to, origin);
                self.work_through(calls, codec, &head, &content, &mut replies)
                    .await;
                replies.finish(with)
            }
            Err(status) => {
                let Reply { status, body } = self.refused(status);
                let form = to.form;
                self.send(channel, to, (status, form), body, (with, origin))
            }
        };
        match settlement {
            _ if settled => Settlement::Settled,
            // Replies that arrive together are answered with calls that are made together.
            Settlement::Ack => Settlement::AckSoon,
            other => other,
        }
    }

    /// Runs as many handlers at once as there are places, and at least one.
    async fn work_through(
        &self,
        calls: Vec<Call<'_>>,
        codec: Codec,
        head: &RequestHead,
        content: &Content,
        replies: &mut Replies<'_>,
    ) {
        let mut calls = calls.into_iter().peekable();
        let mut running = FuturesUnordered::new();
        let mut site = Site::Here;
        let mut place = None;
        loop {
            while calls.peek().is_some() {
                let free = place.take().or_else(|| self.places.try_acquire().ok());
                let Some(place) = free else { break };
                let Some(call) = calls.next() else { return };
                running.push(self.one(call, codec, head, content, site, place));
                let polled = Instant::now();
                let done = running.next().now_or_never().flatten();
                // Those after one that holds its thread run on tasks of their own, where others may
                // run meanwhile.
                if self.side_by_side && polled.elapsed() > HEAVY {
                    site = Site::Apart;
                }
                replies.extend(done.flatten());
            }
            match running.next().now_or_never() {
                Some(Some(done)) => {
                    replies.extend(done);
                    continue;
                }
                Some(None) if calls.peek().is_none() => return,
                Some(None) | None => {}
            }
            // Nothing more is ready: what is goes out.
            replies.flush(With::Nothing(Flush::IoTask));
            tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => replies.extend(done),
                freed = self.places.acquire(), if calls.peek().is_some() => match freed {
                    Ok(freed) => place = Some(freed),
                    // It is never closed.
                    Err(_) => return,
                },
                else => return,
            }
        }
    }

    /// One call, and its answer; none where nobody waits for one any more.
    async fn one(
        &self,
        call: Call<'_>,
        codec: Codec,
        head: &RequestHead,
        content: &Content,
        site: Site,
        _place: SemaphorePermit<'_>,
    ) -> Option<Answer> {
        let id = call.id;
        let deadline = content
            .arrived
            .checked_add(Duration::from_millis(call.time_left));
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.expired(Some(call.method));
            return None;
        }
        let reply = match self.method(Some(call.method)) {
            Err(status) => self.refused(status),
            Ok(method) if method.is_oneway() || method.is_at_most_once() => {
                let text = format!("`{}` does not share a message", method.name());
                self.refused(Status::new(Code::InvalidArgument, text))
            }
            Ok(method) => {
                let facts = Invocation {
                    service: Some(self.service_name().into()),
                    method: Some(method.name().into()),
                    deadline,
                    message: MessageInfo {
                        app_id: head.caller.clone(),
                        message_id: call.message_id.map(str::to_owned),
                        redelivered: content.redelivered,
                        attempt: 1,
                        ..MessageInfo::default()
                    },
                };
                let body = content.body.slice_ref(call.arguments);
                let route = Route { method, codec };
                self.run(self.start(Work { route, facts, body }), site)
                    .await
            }
        };
        let Reply { status, body } = self.fitting(Some(call.method), reply, OVERHEAD);
        Some(Answer { id, status, body })
    }

    /// Sends the replies of a message again that was too large, or `failed` where they are not to
    /// be sent as they were.
    pub(super) fn split(
        &self,
        channel: &Arc<Channel>,
        to: Address,
        body: &Bytes,
        failed: &Reply,
        origin: Origin,
    ) {
        let answers = match batch::read_answers(body) {
            Ok(answers) => answers,
            Err(error) => {
                let service = self.service_name();
                tracing::error!(service, %error, "replies that were kept cannot be read");
                return;
            }
        };
        // The whole message was too large, or there is another reason.
        let is_too_large = body.len() > self.largest();
        let mut replies = Replies::new(self, channel, to, origin);
        for Answer { id, status, body } in answers {
            let reply = if is_too_large {
                self.fitting(origin.method, Reply { status, body }, OVERHEAD)
            } else {
                failed.clone()
            };
            let Reply { status, body } = reply;
            replies.extend(Some(Answer { id, status, body }));
        }
        replies.finish(With::Nothing(Flush::Inline));
    }
}

fn calls(body: &Bytes) -> Result<Vec<Call<'_>>, Status> {
    batch::read_calls(body).map_err(|error| {
        let text = format!("the calls do not decode: {error}");
        Status::new(Code::InvalidArgument, text)
    })
}

/// Replies on their way out.
struct Replies<'a> {
    dispatcher: &'a Dispatcher,
    channel: &'a Arc<Channel>,
    to: Address,
    answers: Vec<Answer>,
    size: usize,
    /// Of the next message.
    origin: Origin,
    /// Of the last message: they leave in order, so it says enough of those before it.
    settlement: Settlement,
}

impl<'a> Replies<'a> {
    fn new(
        dispatcher: &'a Dispatcher,
        channel: &'a Arc<Channel>,
        to: Address,
        origin: Origin,
    ) -> Self {
        let origin = Origin {
            is_last: false,
            is_shared: true,
            ..origin
        };
        Self {
            origin,
            dispatcher,
            channel,
            to,
            answers: Vec::new(),
            size: 0,
            settlement: Settlement::Ack,
        }
    }

    fn extend(&mut self, answer: Option<Answer>) {
        let Some(answer) = answer else { return };
        let (_, text) = answer.status.parts();
        let size = answer.body.len() + text.map_or(0, |text| text.len()) + OVERHEAD;
        if self.size + size > FULL.min(self.dispatcher.largest()) {
            // With those that follow: apart, their callers would call again apart.
            self.flush(With::Nothing(Flush::Deferred));
        }
        self.size += size;
        self.answers.push(answer);
    }

    /// Sends what is left.
    fn finish(mut self, with: With) -> Settlement {
        self.origin.is_last = true;
        self.flush(with);
        self.settlement
    }

    fn flush(&mut self, with: With) {
        if self.answers.is_empty() {
            return;
        }
        let body = match batch::write_answers(&self.answers) {
            Ok(body) => body,
            Err(error) => {
                let service = self.dispatcher.service_name();
                tracing::error!(service, %error, "replies cannot be sent");
                Bytes::new()
            }
        };
        self.answers.clear();
        self.size = 0;
        let form = (ReplyStatus::Success, Form::Several);
        let to = self.to.clone();
        let with = (with, self.origin);
        self.settlement = self.dispatcher.send(self.channel, to, form, body, with);
        self.origin.part += 1;
    }
}
