//! `call`: calls a method with arguments in JSON, and shows its reply, or the items of its stream.

pub(crate) mod arguments;
mod options;
mod repeat;
mod streamed;
pub(crate) mod target;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use lepus::Codec;
use lepus::rpc::DynamicReply;

use crate::app::App;
use crate::args::Format;
use crate::documents::{self, Documents};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::{json_text, message};
use arguments::{Arguments, Json};
use options::Form;
use target::{Body, Target};

/// Calls a method of a service, and writes its reply as JSON
///
/// No contract is needed: every Lepus server reads JSON and replies in it. A running program of the service is asked for
/// the queue of the method and the form of its arguments first; without an answer, the queue has the service's name.
///
/// A method that returns a stream writes one line of JSON for each item, in every form of the output. If the reader of
/// the output is slow, the server waits; if it has gone, as `head` does, the stream is cancelled.
///
/// Arguments are one JSON text (an object by their names, an array, or the one argument of a method with bare
/// parameters), @FILE with such a text, name=value pairs, or - to read a JSON text from each line of stdin and make a
/// call for each. In a pair, a value that is JSON is that JSON, and any other a text: n=30 is a number, name=hare and
/// n='"30"' are texts.
///
/// The method's own error goes to stdout too, and ends the program with 3; a status with 64 and its gRPC code, which for
/// a timeout is 68; a service that nobody serves with 4. Ctrl-C cancels the call or the stream, and ends with 130.
///
/// JSON is written as the server sent it. A MessagePack reply is written as JSON, with bytes as {"$bytes": "base64"}, an
/// extension as {"$ext": [type, "base64"]}, a map with other keys than texts as {"$map": [[key, value], ...]}, and
/// infinity as {"$float": "Infinity"}.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus call calculator.divide dividend=84 divisor=2
  lepus call calculator.divide '{\"dividend\":84,\"divisor\":2}'
  lepus call images.resize @job.json --timeout 1m -H tenant=hare
  cat jobs.jsonl | lepus call images.resize -
  lepus call ticker.ticks symbol=HARE | head -3
  lepus call calculator.divide dividend=84 divisor=2 --repeat 1000")]
pub(crate) struct Call {
    /// The service and the method, with a dot between them
    #[arg(value_name = "SERVICE.METHOD")]
    target: String,
    /// JSON, @FILE, name=value pairs, or - for a call for each line of stdin
    #[arg(value_name = "ARGUMENTS", allow_negative_numbers = true)]
    arguments: Vec<String>,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = documents::header)]
    headers: Vec<(String, lepus::amqp::Value)>,
    /// The priority of the request, for a queue that has priorities
    #[arg(long, value_name = "0-255")]
    priority: Option<u8>,
    /// The queue of the service, if it has another name
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// The encoding of arguments and reply; some values can be encoded in MessagePack only
    #[arg(long, value_name = "CODEC", default_value = "json")]
    codec: CodecName,
    /// Fails at once if no server consumes the queue now, instead of waiting for one
    #[arg(long)]
    fail_fast: bool,
    /// The method has no reply: waits until the broker has the request. A running service tells it
    #[arg(long, conflicts_with = "raw")]
    oneway: bool,
    /// The method may run twice: sends the request again if the connection is lost. A running service tells it
    #[arg(long)]
    idempotent: bool,
    /// The method returns a stream. A running service tells it
    #[arg(long, conflicts_with_all = ["oneway", "idempotent", "raw", "repeat"])]
    stream: bool,
    /// Makes this many calls one after the other, and writes a summary of their latency instead of the replies
    #[arg(long, value_name = "N", conflicts_with = "raw", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Writes the bytes of the reply as they came
    #[arg(long)]
    raw: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CodecName {
    Json,
    Msgpack,
}

impl Call {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        // Before anything is connected, so that a mistake in them costs nothing.
        let arguments = Arguments::parse(&self.arguments)?;
        let target = Target::parse(&self.target, self.queue.as_deref(), self.codec())?;
        match arguments {
            Arguments::One(json) => {
                let body = self.body(&json)?;
                match self.repeat {
                    Some(count) => repeat::run(&self, app, target, body, count).await,
                    None => self.once(app, target, body).await,
                }
            }
            Arguments::Lines if self.repeat.is_some() => Err(Failure::usage(
                "--repeat does not go with the calls of stdin",
            )),
            Arguments::Lines => self.lines(app, target).await,
        }
    }

    async fn once(&self, app: &App, mut target: Target, body: Body) -> Result<Exit, Failure> {
        let is_pretty = app.out.format() != Format::Jsonl;
        self.one(app, &mut target, &body, is_pretty).await
    }

    /// A call for each line of stdin, and a line for each reply. One that fails does not end the others; the program
    /// ends with the code of the first that failed.
    async fn lines(&self, app: &App, mut target: Target) -> Result<Exit, Failure> {
        let mut lines = Documents::stdin();
        let mut exit = Exit::Ok;
        while let Some(line) = lines.next_text().await? {
            let ended = match self.line(app, &mut target, &line).await {
                // The reader of stdout has gone.
                Err(failure) if failure.text().is_empty() => return Err(failure),
                Err(failure) => {
                    let number = lines.number();
                    note(&format!("error: line {number}: {}", failure.text()));
                    // No other line would fare better.
                    if matches!(failure.exit(), Exit::Connect | Exit::Unserved) {
                        return Ok(failure.exit());
                    }
                    failure.exit()
                }
                Ok(ended) => ended,
            };
            if exit == Exit::Ok {
                exit = ended;
            }
        }
        Ok(exit)
    }

    async fn line(&self, app: &App, target: &mut Target, line: &str) -> Result<Exit, Failure> {
        let body = self.body(&arguments::json(line)?.into())?;
        self.one(app, target, &body, false).await
    }

    /// Makes one call, and shows its reply, or the items of its stream.
    async fn one(
        &self,
        app: &App,
        target: &mut Target,
        body: &Body,
        is_pretty: bool,
    ) -> Result<Exit, Failure> {
        let connection = app.connect().await?;
        target.look_up(connection, app.timeout()).await;
        match self.form(target)? {
            Form::Stream => streamed::run(self, app, target, body).await,
            form => {
                let reply = self.reply(app, target, body).await?;
                let is_shown = form != Form::OneWay;
                self.show(app, target, &reply, is_shown.then_some(is_pretty))
            }
        }
    }

    /// Makes one call of a method that returns no stream.
    async fn reply(
        &self,
        app: &App,
        target: &mut Target,
        body: &Body,
    ) -> Result<DynamicReply, Failure> {
        let connection = app.connect().await?;
        let (method, arguments) = (target.method().to_owned(), target.body(body));
        let client = target.client(connection)?.clone();
        let call = client.call(&method, arguments);
        let made = self.with_options(app, target, call).await;
        made.map_err(|error| target.failure(error))
    }

    /// Writes a reply: on several lines, on one, or, of a method without a reply, not at all.
    fn show(
        &self,
        app: &App,
        target: &Target,
        reply: &DynamicReply,
        is_pretty: Option<bool>,
    ) -> Result<Exit, Failure> {
        if self.raw {
            app.out.bytes(reply.body())?;
        } else if let Some(is_pretty) = is_pretty {
            let json = json_of(reply)?;
            app.out.text(&match is_pretty {
                true => json_text::pretty(&json),
                false => json_text::compact(&json),
            })?;
        }
        Ok(exit_of(target, reply))
    }

    fn codec(&self) -> Codec {
        match self.codec {
            CodecName::Json => Codec::Json,
            CodecName::Msgpack => Codec::MsgPack,
        }
    }

    fn body(&self, json: &Json) -> Result<Body, Failure> {
        let single = match &json.single {
            Some((name, value)) => Some((name.clone(), self.encode(value)?)),
            None => None,
        };
        Ok(Body {
            arguments: self.encode(&json.text)?,
            single,
        })
    }

    /// The arguments as the server gets them.
    fn encode(&self, json: &str) -> Result<Bytes, Failure> {
        match self.codec {
            CodecName::Json => Ok(Bytes::copy_from_slice(json.as_bytes())),
            CodecName::Msgpack => {
                if let Some(number) = json_text::large_integer(json) {
                    return Err(Failure::usage(format!(
                        "MessagePack has no integer {number}, which needs more than 64 bits; JSON has"
                    )));
                }
                let value: serde_json::Value = serde_json::from_str(json).map_err(|error| {
                    Failure::usage(format!("the arguments are no JSON: {error}"))
                })?;
                let body = Codec::MsgPack.encode(&value);
                body.map_err(|error| {
                    Failure::usage(format!("the arguments cannot be encoded: {error}"))
                })
            }
        }
    }
}

/// A reply, or an item of a stream, as JSON.
///
/// # Errors
/// It is no value of its encoding.
fn json_of(reply: &DynamicReply) -> Result<String, Failure> {
    message::reply(reply.codec(), reply.body()).map_err(|reason| {
        let (codec, bytes) = (reply.codec().content_type(), reply.body().len());
        let text = format!("the reply is no valid {codec} ({bytes} bytes, see --raw): {reason}");
        Failure::new(Exit::Status(lepus::Code::Internal), text)
    })
}

/// The exit code of a call with this reply. The method's own error is told.
fn exit_of(target: &Target, reply: &DynamicReply) -> Exit {
    if !reply.is_own_error() {
        return Exit::Ok;
    }
    note(&format!("error: {target} returned its own error"));
    Exit::OwnError
}
