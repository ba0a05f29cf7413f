//! Heads of requests, replies, jobs, events, dead letters, streams and questions to instances: what each carries besides its body, as AMQP
//! properties (`basic.publish`) and back.
//!
//! The names of headers and of the `type` property are known in this folder alone. docs/protocol.md lists
//! them.

mod control;
mod dead_letter;
mod event;
mod job;
mod property;
mod reply;
mod request;
mod reserved;
mod stream;

pub(crate) use control::{
    ALL, AnswerHead, CONTROL_EXCHANGE, CancelHead, QuestionHead, QuestionKind, control_queue,
    queue_key, service_key,
};
pub(crate) use dead_letter::DeathRecord;
pub(crate) use event::EventHead;
pub(crate) use job::{JobHead, NewJob, SourceRoute, remove_untrusted_headers, retried};
pub(crate) use property::{expiration, milliseconds, sent_at};
pub(crate) use reply::{ReplyForm, ReplyHead, ReplyStatus};
pub(crate) use request::{CALLS_TYPE, RequestHead, is_protocol_type};
pub(crate) use reserved::{check_headers, is_reserved, replace_user_id};
pub(crate) use stream::{StreamHead, StreamMessage, StreamPosition};
