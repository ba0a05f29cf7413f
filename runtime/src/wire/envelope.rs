//! The heads of requests, replies, jobs and events, as AMQP properties and back.
//!
//! The only file that knows a header's name: protocol 1 is written down here.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock;
use crate::error::Error;
use crate::wire::message::{Incoming, MessageInfo, Properties};
use crate::wire::status::{Code, Status};
use crate::wire::value::{Table, Value};

/// Header of a reply that is no success: a status code, or [`APPLICATION`].
const STATUS: &str = "rpc-status";
/// Header beside it: a text for people.
const MESSAGE: &str = "rpc-message";
/// The status of a reply whose body is the method's own error.
const APPLICATION: &str = "application";
/// Header of a request whose client would send several calls in one message: asks whether the
/// server takes that. It is asked so, and not said in every reply, for each property of a message
/// costs the broker as much as some of the call.
const ACCEPT: &str = "rpc-accept";
/// The W3C headers, passed on from call to call.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];
/// The longest per-message TTL RabbitMQ takes, in milliseconds.
const EXPIRATION_MAX: u32 = u32::MAX;
/// The longest text in a header, in bytes. Properties have to fit into one frame, and a larger one
/// costs the whole connection; what a text quotes may be the other side's to choose.
const TEXT_MAX: usize = 1024;

/// What a request says besides its arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestHead {
    pub(crate) method: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: Option<String>,
    /// The time left until the caller stops waiting.
    pub(crate) time_left: Option<Duration>,
    pub(crate) priority: Option<u8>,
    pub(crate) caller: Option<String>,
    pub(crate) headers: Table,
    pub(crate) trace: Table,
    pub(crate) persistent: bool,
    /// Whether the server is to say if it takes several calls in one message.
    pub(crate) asks: bool,
}

impl RequestHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        headers.extend(self.trace);
        if self.asks {
            headers.insert(ACCEPT.into(), CALLS.into());
        }
        Properties {
            content_type: self.content_type,
            headers,
            persistent: self.persistent,
            priority: self.priority,
            correlation_id: self.correlation_id,
            reply_to: self.reply_to,
            expiration: self.time_left.map(expiration),
            message_id: self.message_id,
            kind: self.method,
            app_id: self.caller,
            ..Properties::default()
        }
    }

    /// Reads a request. Nothing in it can be wrong enough to refuse it here: what is missing is
    /// `None`, and an expiration that is no number is none.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        let mut headers = properties.headers;
        let asked = headers.remove(ACCEPT);
        Self {
            asks: asked.is_some_and(|what| what.as_str() == Some(CALLS)),
            method: properties.kind.filter(|method| !method.is_empty()),
            reply_to: properties.reply_to.filter(|queue| !queue.is_empty()),
            correlation_id: properties.correlation_id,
            message_id: properties.message_id,
            content_type: properties.content_type.filter(|name| !name.is_empty()),
            time_left: properties.expiration.as_deref().and_then(duration),
            priority: properties.priority,
            caller: properties.app_id,
            trace: take_trace(&mut headers),
            headers,
            persistent: properties.persistent,
        }
    }
}

/// How a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplyStatus {
    /// The body is the value.
    Success,
    /// The body is the method's own error.
    Application,
    /// No body; the status says why.
    Failed(Status),
}

impl ReplyStatus {
    /// Its name on the wire and the text beside it; nothing for a success.
    pub(crate) fn parts(&self) -> (Option<&str>, Option<Cow<'_, str>>) {
        match self {
            Self::Success => (None, None),
            Self::Application => (Some(APPLICATION), None),
            Self::Failed(status) => (
                Some(status.code().as_str()),
                Some(shortened(status.message())),
            ),
        }
    }

    /// Reads it; a status nobody knows is [`Code::Unknown`], with its name in the message.
    pub(crate) fn from_parts(name: Option<&str>, message: Option<&str>) -> Self {
        match name {
            None | Some("ok") => Self::Success,
            Some(APPLICATION) => Self::Application,
            Some(code) => {
                let message = message.unwrap_or_default();
                Self::Failed(match code.parse::<Code>() {
                    Ok(code) => Status::new(code, message),
                    Err(_) => Status::new(Code::Unknown, format!("{code}: {message}")),
                })
            }
        }
    }
}

/// `type` of a request whose body is several calls. No method is called so.
pub(crate) const CALLS: &str = "lepus.calls/1";
/// `type` of a reply whose body is several replies.
const REPLIES: &str = "lepus.replies/1";

/// What the body of a reply is, and what its server understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// One reply, of a server that says no more.
    #[default]
    Plain,
    /// One reply, of a server that takes several calls in one message. Its `type` is theirs.
    Coalescing,
    /// Several replies.
    Several,
}

/// What a reply says besides its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReplyHead {
    pub(crate) status: ReplyStatus,
    pub(crate) form: Form,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) content_type: Option<String>,
    pub(crate) server: Option<String>,
}

impl ReplyHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = Table::new();
        let (status, message) = self.status.parts();
        if let Some(status) = status {
            headers.insert(STATUS.into(), status.into());
        }
        if let Some(message) = message {
            headers.insert(MESSAGE.into(), message.as_ref().into());
        }
        let kind = match self.form {
            Form::Plain => None,
            Form::Coalescing => Some(CALLS),
            Form::Several => Some(REPLIES),
        };
        Properties {
            content_type: self.content_type,
            headers,
            correlation_id: self.correlation_id,
            kind: kind.map(str::to_owned),
            app_id: self.server,
            ..Properties::default()
        }
    }

    pub(crate) fn from_properties(properties: Properties) -> Self {
        let text = |name| properties.headers.get(name).and_then(Value::as_str);
        let form = match properties.kind.as_deref() {
            Some(CALLS) => Form::Coalescing,
            Some(REPLIES) => Form::Several,
            _ => Form::Plain,
        };
        Self {
            status: ReplyStatus::from_parts(text(STATUS), text(MESSAGE)),
            form,
            correlation_id: properties.correlation_id,
            content_type: properties.content_type.filter(|name| !name.is_empty()),
            server: properties.app_id,
        }
    }
}

/// Header of a job: which attempt this is, from 1.
const ATTEMPT: &str = "attempt";
/// Headers of a job that failed: its first error and its last one.
const FIRST_ERROR: &str = "first-error";
const ERROR: &str = "error";
/// Headers of a dead letter.
const REASON: &str = "reason";
const FAILED_AT: &str = "failed-at";
const ATTEMPTS: &str = "attempts";
const SOURCE_QUEUE: &str = "source-queue";
/// Ours on any copy of a message that came in another way.
const SOURCE_NOTES: [&str; 3] = [SOURCE_EXCHANGE, SOURCE_KEY, SOURCE_USER];
/// Ours on a job, from its first failure to its death.
const JOB_NOTES: [&str; 7] = [
    ATTEMPT,
    FIRST_ERROR,
    ERROR,
    REASON,
    FAILED_AT,
    ATTEMPTS,
    SOURCE_QUEUE,
];
/// How often a quorum queue has delivered the message before.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// What RabbitMQ writes on dead-lettering.
const DEATH: &str = "x-death";
/// RabbitMQ's notes on a message's way. A copy begins its own: with the old ones the broker would
/// take a retry for a cycle of dead letters and drop it.
const BROKER_NOTES: [&str; 10] = [
    DEATH,
    DELIVERY_COUNT,
    "x-acquired-count",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-opt-rabbitmq-delivery-count",
];

/// The head of a job that is pushed.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) task: Option<String>,
    pub(crate) message_id: String,
    pub(crate) content_type: &'static str,
    /// Seconds since the Unix epoch.
    pub(crate) pushed_at: Option<u64>,
    pub(crate) producer: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// The time for which it waits in a delay queue first.
    pub(crate) delay: Option<Duration>,
    pub(crate) headers: Table,
    pub(crate) trace: Table,
}

impl NewJob {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        headers.extend(self.trace);
        Properties {
            content_type: Some(self.content_type.to_owned()),
            headers,
            persistent: self.persistent,
            priority: self.priority,
            expiration: self.delay.map(expiration),
            message_id: Some(self.message_id),
            timestamp: self.pushed_at,
            kind: self.task,
            app_id: self.producer,
            ..Properties::default()
        }
    }
}

/// The head of a job that was delivered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobHead {
    pub(crate) task: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: Option<String>,
    /// The attempt this delivery was published for.
    pub(crate) attempt: u32,
    /// The earlier deliveries that were not settled, if the broker counts them.
    pub(crate) unsettled: u32,
    /// When it was pushed, in seconds since the Unix epoch.
    pub(crate) pushed_at: Option<u64>,
    pub(crate) caller: Option<String>,
    pub(crate) headers: Table,
    pub(crate) trace: Table,
    /// How its first copy came, for later attempts.
    pub(crate) route: Option<Route>,
}

impl JobHead {
    pub(crate) fn read(properties: &Properties) -> Self {
        let mut headers = properties.headers.clone();
        let attempt = headers.remove(ATTEMPT);
        let count = headers.remove(DELIVERY_COUNT);
        for note in BROKER_NOTES
            .iter()
            .chain(&[FIRST_ERROR, ERROR, SOURCE_USER])
        {
            headers.remove(*note);
        }
        let route = Route::take(&mut headers);
        Self {
            task: properties.kind.clone().filter(|name| !name.is_empty()),
            message_id: properties.message_id.clone(),
            content_type: properties
                .content_type
                .clone()
                .filter(|name| !name.is_empty()),
            attempt: counted(attempt.as_ref()).unwrap_or(1).max(1),
            unsettled: counted(count.as_ref()).unwrap_or(0),
            pushed_at: properties.timestamp,
            caller: properties.app_id.clone(),
            trace: take_trace(&mut headers),
            headers,
            route,
        }
    }

    /// The facts for its handler.
    pub(crate) fn into_info(self, message: &Incoming, attempt: u32) -> MessageInfo {
        let (exchange, routing_key) = match self.route {
            Some(route) => (route.exchange, route.routing_key),
            None => (message.exchange.clone(), message.routing_key.clone()),
        };
        MessageInfo {
            exchange,
            routing_key,
            kind: self.task,
            content_type: self.content_type,
            message_id: self.message_id,
            timestamp: self.pushed_at,
            app_id: self.caller,
            headers: self.headers,
            trace: self.trace,
            redelivered: message.redelivered,
            attempt,
        }
    }
}

/// Headers of an event that is tried again, or is a dead letter: the way its first copy came.
const SOURCE_EXCHANGE: &str = "source-exchange";
const SOURCE_KEY: &str = "source-routing-key";
/// Header of a copy: the `user_id` of the first one, where the copy cannot have it.
const SOURCE_USER: &str = "source-user-id";

/// An exchange, and the routing key of a message through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

impl Route {
    /// Notes the way that a message came, before a copy of it takes another one. What came
    /// straight to its queue keeps the note it has.
    pub(crate) fn note(exchange: &str, routing_key: &str, properties: &mut Properties) {
        if !exchange.is_empty() {
            let headers = &mut properties.headers;
            headers.insert(SOURCE_EXCHANGE.into(), exchange.into());
            headers.insert(SOURCE_KEY.into(), routing_key.into());
        }
    }

    fn take(headers: &mut Table) -> Option<Self> {
        let (exchange, key) = (headers.remove(SOURCE_EXCHANGE), headers.remove(SOURCE_KEY));
        match (exchange?, key?) {
            (Value::Text(exchange), Value::Text(routing_key)) => Some(Self {
                exchange,
                routing_key,
            }),
            _ => None,
        }
    }
}

/// What an event says besides its payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EventHead {
    /// The event's type, where the exchange carries several.
    pub(crate) kind: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) message_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) published_at: Option<u64>,
    pub(crate) publisher: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// How long it may wait in a queue.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) headers: Table,
    pub(crate) trace: Table,
}

impl EventHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        headers.extend(self.trace);
        Properties {
            content_type: self.content_type,
            headers,
            persistent: self.persistent,
            priority: self.priority,
            expiration: self.time_to_live.map(expiration),
            message_id: self.message_id,
            timestamp: self.published_at,
            kind: self.kind,
            app_id: self.publisher,
            ..Properties::default()
        }
    }

    /// Reads an event; what is missing is `None`.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        let mut headers = properties.headers;
        Self {
            kind: properties.kind.filter(|kind| !kind.is_empty()),
            content_type: properties.content_type.filter(|name| !name.is_empty()),
            message_id: properties.message_id,
            published_at: properties.timestamp,
            publisher: properties.app_id,
            persistent: properties.persistent,
            priority: properties.priority,
            time_to_live: properties.expiration.as_deref().and_then(duration),
            trace: take_trace(&mut headers),
            headers,
        }
    }
}

fn counted(value: Option<&Value>) -> Option<u32> {
    value
        .and_then(Value::as_int)
        .and_then(|count| u32::try_from(count).ok())
}

/// Whether a header is not its sender's to set, on whatever message: it would be misread, or
/// overwritten.
fn is_reserved(header: &str) -> bool {
    let ours = JOB_NOTES.iter().chain(&SOURCE_NOTES);
    let ours = ours.chain(&[STATUS, MESSAGE, ACCEPT]);
    ours.chain(&BROKER_NOTES).any(|note| *note == header)
}

/// # Errors
/// One of the headers that a user wants to send is reserved; it is named.
pub(crate) fn check_headers<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    match names.into_iter().find(|name| is_reserved(name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "header `{name}` cannot be set: its name is reserved, Lepus or the broker writes it"
        ))),
    }
}

/// Removes what only a sender can have made up. Copies that carry our notes rightly come straight to
/// their queue and not through an exchange. The broker counts the deliveries before this one, if the
/// queue does (`has_count`), and leaves the header alone where there are none.
pub(crate) fn remove_foreign_notes(message: &mut Incoming, has_count: bool) {
    let headers = &mut message.properties.headers;
    if headers.is_empty() {
        return;
    }
    let is_event = !message.exchange.is_empty();
    if is_event {
        for name in JOB_NOTES.iter().chain(&SOURCE_NOTES) {
            headers.remove(*name);
        }
    }
    if !message.redelivered || (is_event && !has_count) {
        headers.remove(DELIVERY_COUNT);
    }
}

/// Makes a message one that this user may publish: the `user_id` of another one goes into a
/// header.
pub(crate) fn sent_by(properties: &mut Properties, user: Option<&str>) {
    let Some(uncommon) = &mut properties.uncommon else {
        return;
    };
    if let Some(name) = uncommon.user_id.take_if(|name| user != Some(&**name)) {
        properties.headers.insert(SOURCE_USER.into(), name.into());
    }
}

/// The properties of a job's next attempt.
pub(crate) fn retried(mut job: Properties, attempt: u32, error: &str) -> Properties {
    forget_the_way(&mut job);
    note_error(&mut job, error);
    job.headers.insert(ATTEMPT.into(), attempt.into());
    job
}

/// The record of a dead letter: the reason, the errors and the queue that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeathRecord {
    pub(crate) reason: String,
    pub(crate) error: String,
    pub(crate) first_error: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) source_queue: String,
    /// Seconds since the Unix epoch.
    pub(crate) failed_at: Option<u64>,
}

impl DeathRecord {
    /// The properties of the dead letter: the job's own with this record.
    pub(crate) fn write(&self, mut job: Properties) -> Properties {
        forget_the_way(&mut job);
        note_error(&mut job, &self.error);
        job.headers.remove(ATTEMPT);
        job.headers
            .insert(REASON.into(), self.reason.as_str().into());
        job.headers.insert(ATTEMPTS.into(), self.attempts.into());
        job.headers
            .insert(SOURCE_QUEUE.into(), self.source_queue.as_str().into());
        if let Some(seconds) = self.failed_at {
            job.headers
                .insert(FAILED_AT.into(), Value::Timestamp(seconds));
        }
        job
    }

    /// Reads the record of a dead letter: ours, or that of the broker (expired, over the delivery
    /// limit).
    pub(crate) fn read(properties: &Properties) -> Self {
        let headers = &properties.headers;
        let text = |name| headers.get(name).and_then(Value::as_str).map(str::to_owned);
        let death = first_death(headers);
        let of_death = |name| death.and_then(|death| death.get(name));
        // The broker's notes are removed from a letter of ours. Where there are any, the rest was
        // in the message before: a sender may have made it up.
        let ours = |name| text(name).filter(|_| death.is_none());
        let reason = ours(REASON).or_else(|| {
            of_death("reason")
                .and_then(Value::as_str)
                .map(str::to_owned)
        });
        let source = ours(SOURCE_QUEUE)
            .or_else(|| of_death("queue").and_then(Value::as_str).map(str::to_owned));
        let time = of_death("time").or_else(|| headers.get(FAILED_AT));
        let attempts = counted(headers.get(ATTEMPTS)).or_else(|| counted(headers.get(ATTEMPT)));
        Self {
            reason: reason.unwrap_or_else(|| "unknown".into()),
            error: text(ERROR).unwrap_or_default(),
            first_error: text(FIRST_ERROR),
            attempts: attempts.unwrap_or(0),
            source_queue: source.unwrap_or_default(),
            failed_at: match time {
                Some(Value::Timestamp(seconds)) => Some(*seconds),
                _ => None,
            },
        }
    }

    /// The properties of a dead letter that becomes a new job: without the record.
    pub(crate) fn erase(mut letter: Properties) -> Properties {
        forget_the_way(&mut letter);
        for name in JOB_NOTES {
            letter.headers.remove(name);
        }
        letter
    }
}

/// The last error, and the first one where there is none yet.
fn note_error(job: &mut Properties, error: &str) {
    let error = Value::from(shortened(error).as_ref());
    job.headers
        .entry(FIRST_ERROR.into())
        .or_insert_with(|| error.clone());
    job.headers.insert(ERROR.into(), error);
}

fn first_death(headers: &Table) -> Option<&Table> {
    match headers.get(DEATH)? {
        Value::List(deaths) => match deaths.first()? {
            Value::Table(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

fn forget_the_way(job: &mut Properties) {
    job.expiration = None;
    for note in BROKER_NOTES {
        job.headers.remove(note);
    }
}

/// A time left as AMQP's `expiration`: milliseconds, rounded up so that what is left is not lost.
pub(crate) fn expiration(time_left: Duration) -> String {
    milliseconds(time_left).to_string()
}

/// The same as a number: at the most what the broker takes.
pub(crate) fn milliseconds(time_left: Duration) -> u32 {
    u32::try_from(clock::whole_millis(time_left)).unwrap_or(EXPIRATION_MAX)
}

fn duration(expiration: &str) -> Option<Duration> {
    expiration.parse().ok().map(Duration::from_millis)
}

fn shortened(text: &str) -> Cow<'_, str> {
    const MORE: &str = "…";
    if text.len() <= TEXT_MAX {
        return text.into();
    }
    let mut ends = (0..=TEXT_MAX - MORE.len()).rev();
    let start = ends.find_map(|end| text.get(..end));
    format!("{}{MORE}", start.unwrap_or_default()).into()
}

fn take_trace(headers: &mut Table) -> Table {
    TRACE
        .iter()
        .filter_map(|name| headers.remove_entry(*name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Uncommon;
    use proptest::prelude::*;

    fn head() -> RequestHead {
        RequestHead {
            method: Some("fib".into()),
            reply_to: Some("lepus.reply.7".into()),
            correlation_id: Some(b"42".to_vec()),
            content_type: Some("application/msgpack".into()),
            time_left: Some(Duration::from_millis(2500)),
            ..RequestHead::default()
        }
    }

    #[test]
    fn a_request_needs_no_header_table() {
        let properties = head().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("fib"));
        assert_eq!(properties.expiration.as_deref(), Some("2500"));
        assert!(properties.headers.is_empty() && !properties.persistent);
        assert_eq!(RequestHead::from_properties(properties), head());
    }

    #[test]
    fn the_trace_travels_apart_from_the_callers_headers() {
        let table = Table::from([
            ("traceparent".to_owned(), Value::from("00-1-2-01")),
            ("tenant".to_owned(), Value::from("hare")),
        ]);
        let properties = Properties {
            headers: table,
            ..Properties::default()
        };
        let head = RequestHead::from_properties(properties);
        assert_eq!(head.trace.keys().collect::<Vec<_>>(), ["traceparent"]);
        assert_eq!(head.headers.keys().collect::<Vec<_>>(), ["tenant"]);
    }

    #[test]
    fn the_question_what_a_server_takes_is_no_header_of_the_callers() {
        let asking = RequestHead {
            asks: true,
            headers: Table::from([("tenant".to_owned(), Value::from("hare"))]),
            ..head()
        };
        let mut properties = asking.clone().into_properties();
        assert_eq!(
            properties.headers["rpc-accept"],
            Value::from("lepus.calls/1")
        );
        assert_eq!(
            RequestHead::from_properties(properties.clone()),
            asking.clone()
        );
        let other = Value::from("lepus.calls/2");
        properties.headers.insert("rpc-accept".to_owned(), other);
        let head = RequestHead::from_properties(properties);
        assert_eq!((head.asks, head.headers), (false, asking.headers));
    }

    #[test]
    fn a_reply_without_headers_is_a_success() {
        let head = ReplyHead::from_properties(Properties::default());
        assert_eq!(head.status, ReplyStatus::Success);
    }

    #[test]
    fn statuses_travel_as_two_headers() {
        let status = Status::new(Code::Unimplemented, "no method `fob`");
        let head = ReplyHead {
            form: Form::Coalescing,
            status: ReplyStatus::Failed(status),
            correlation_id: Some(b"42".to_vec()),
            content_type: None,
            server: None,
        };
        let properties = head.clone().into_properties();
        assert_eq!(
            properties.headers["rpc-status"],
            Value::from("unimplemented")
        );
        assert_eq!(
            properties.headers["rpc-message"],
            Value::from("no method `fob`")
        );
        assert_eq!(ReplyHead::from_properties(properties), head);
    }

    #[test]
    fn an_unknown_status_is_kept_in_the_message() {
        let headers = Table::from([("rpc-status".to_owned(), Value::from("teapot"))]);
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        let expected = Status::new(Code::Unknown, "teapot: ");
        assert_eq!(
            ReplyHead::from_properties(properties).status,
            ReplyStatus::Failed(expected)
        );
    }

    #[test]
    fn texts_are_cut_to_what_a_frame_can_hold() {
        let Cow::Owned(text) = shortened(&"ü".repeat(TEXT_MAX)) else {
            panic!("a text");
        };
        assert!(text.len() <= TEXT_MAX && text.ends_with("ü…"), "{text}");
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn expirations_round_up_and_fit_the_broker() {
        assert_eq!(expiration(Duration::from_micros(1)), "1");
        assert_eq!(expiration(Duration::MAX), "4294967295");
        assert_eq!(duration("soon"), None);
    }

    #[test]
    fn an_event_reads_as_it_was_written() {
        let head = EventHead {
            kind: Some("order.placed".into()),
            content_type: Some("application/json".into()),
            message_id: Some("m".into()),
            published_at: Some(7),
            publisher: Some("shop".into()),
            persistent: true,
            priority: Some(1),
            time_to_live: Some(Duration::from_secs(2)),
            headers: Table::from([("tenant".to_owned(), Value::from("hare"))]),
            trace: Table::from([("traceparent".to_owned(), Value::from("00-1-2-01"))]),
        };
        let properties = head.clone().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("order.placed"));
        assert_eq!(properties.expiration.as_deref(), Some("2000"));
        assert_eq!(EventHead::from_properties(properties), head);
    }

    #[test]
    fn a_retried_event_knows_how_it_came() {
        let mut properties = Properties::default();
        Route::note("topic_logs", "kern.info", &mut properties);
        let mut second = retried(properties, 2, "busy");
        Route::note("", "topic_logs.audit", &mut second);
        let head = JobHead::read(&second);
        let route = Route {
            exchange: "topic_logs".into(),
            routing_key: "kern.info".into(),
        };
        assert_eq!(head.route, Some(route));
        assert!(head.headers.is_empty());
    }

    #[test]
    fn a_job_keeps_its_first_error_and_dies_with_its_last() {
        let job = Properties {
            kind: Some("resize".into()),
            ..Properties::default()
        };
        let second = retried(job, 2, "busy");
        let third = retried(second, 3, "still busy");
        assert_eq!(JobHead::read(&third).attempt, 3);
        let record = DeathRecord {
            reason: "attempts".into(),
            error: "gone".into(),
            first_error: None,
            attempts: 3,
            source_queue: "images".into(),
            failed_at: Some(7),
        };
        let letter = record.write(third);
        let read = DeathRecord::read(&letter);
        assert_eq!(
            (read.error.as_str(), read.first_error.as_deref()),
            ("gone", Some("busy"))
        );
        assert_eq!((read.attempts, read.failed_at), (3, Some(7)));
        let republished = DeathRecord::erase(letter);
        assert!(republished.headers.is_empty());
        assert_eq!(republished.kind.as_deref(), Some("resize"));
    }

    #[test]
    fn what_a_sender_makes_up_is_removed_and_the_brokers_word_kept() {
        let headers: Table = JOB_NOTES
            .iter()
            .chain(&SOURCE_NOTES)
            .chain(&[DELIVERY_COUNT, "tenant"])
            .map(|name| ((*name).to_owned(), Value::Int(7)))
            .collect();
        let event = |exchange: &str, redelivered, has_count| {
            let mut message = Incoming {
                exchange: exchange.into(),
                routing_key: "a.b".into(),
                redelivered,
                properties: Properties {
                    headers: headers.clone(),
                    ..Properties::default()
                },
                body: bytes::Bytes::new(),
                size: 0,
            };
            remove_foreign_notes(&mut message, has_count);
            message.properties
        };
        let names = |properties: &Properties| {
            let names = properties.headers.keys();
            names.cloned().collect::<Vec<_>>()
        };
        let counted = event("logs", true, true);
        assert_eq!(names(&counted), ["tenant", DELIVERY_COUNT]);
        assert_eq!(JobHead::read(&counted).unsettled, 7);
        for made_up in [event("logs", false, true), event("logs", true, false)] {
            assert_eq!(names(&made_up), ["tenant"]);
            let head = JobHead::read(&made_up);
            assert_eq!((head.attempt, head.unsettled), (1, 0));
        }
        // A copy of ours.
        assert_eq!(JobHead::read(&event("", true, false)).unsettled, 7);
        let copy = JobHead::read(&event("", false, true));
        assert_eq!((copy.attempt, copy.unsettled), (7, 0));
    }

    #[test]
    fn reserved_headers_are_named() {
        for name in ["error", "rpc-accept", "source-user-id", "x-death"] {
            let error = check_headers([&name.to_owned()]).unwrap_err();
            assert!(
                error.is_invalid() && error.to_string().contains(name),
                "{error}"
            );
        }
        for name in ["tenant", "traceparent", "x-delay", "CC"] {
            check_headers([&name.to_owned()]).unwrap();
        }
    }

    #[test]
    fn another_users_id_becomes_a_header() {
        let mut properties = Properties {
            uncommon: Some(Box::new(Uncommon {
                user_id: Some("hare".into()),
                ..Uncommon::default()
            })),
            ..Properties::default()
        };
        let user = |properties: &Properties| properties.uncommon.clone().unwrap().user_id;
        sent_by(&mut properties, Some("hare"));
        assert_eq!(user(&properties).as_deref(), Some("hare"));
        assert!(properties.headers.is_empty());
        sent_by(&mut properties, None);
        assert_eq!(user(&properties), None);
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        // Of later copies too.
        sent_by(&mut properties, Some("fox"));
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        assert!(JobHead::read(&properties).headers.is_empty());
    }

    #[test]
    fn a_letter_of_the_brokers_is_not_told_by_its_senders_headers() {
        let death = Table::from([
            ("reason".to_owned(), Value::from("expired")),
            ("queue".to_owned(), Value::from("images")),
            ("time".to_owned(), Value::Timestamp(9)),
        ]);
        let headers = Table::from([
            (DEATH.to_owned(), Value::List(vec![Value::Table(death)])),
            (REASON.to_owned(), Value::from("attempts")),
            (SOURCE_QUEUE.to_owned(), Value::from("elsewhere")),
            (FAILED_AT.to_owned(), Value::Timestamp(1)),
        ]);
        let read = DeathRecord::read(&Properties {
            headers,
            ..Properties::default()
        });
        assert_eq!(
            (
                read.reason.as_str(),
                read.source_queue.as_str(),
                read.failed_at
            ),
            ("expired", "images", Some(9))
        );
    }

    #[test]
    fn the_brokers_own_dead_letters_are_read_too() {
        let death = Table::from([
            ("reason".to_owned(), Value::from("delivery_limit")),
            ("queue".to_owned(), Value::from("images")),
            ("time".to_owned(), Value::Timestamp(9)),
        ]);
        let headers = Table::from([(DEATH.to_owned(), Value::List(vec![Value::Table(death)]))]);
        let read = DeathRecord::read(&Properties {
            headers,
            ..Properties::default()
        });
        assert_eq!(
            (read.reason.as_str(), read.source_queue.as_str()),
            ("delivery_limit", "images")
        );
        assert_eq!(read.failed_at, Some(9));
    }

    proptest! {
        #[test]
        fn requests_round_trip(
            method in proptest::option::of("[a-z]{1,20}"),
            id in proptest::option::of(".{1,40}"),
            millis in proptest::option::of(0u64..100_000_000),
            priority in proptest::option::of(any::<u8>()),
            headers in proptest::collection::btree_map("[a-z]{1,8}", any::<i64>(), 0..4),
        ) {
            let head = RequestHead {
                method,
                correlation_id: id.clone().map(String::into_bytes),
                message_id: id,
                time_left: millis.map(Duration::from_millis),
                priority,
                headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
                ..RequestHead::default()
            };
            prop_assert_eq!(RequestHead::from_properties(head.clone().into_properties()), head);
        }
    }
}
