//! `call`: calls a method with arguments in JSON, and shows its reply.

pub(crate) mod arguments;
mod repeat;
pub(crate) mod target;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use lepus::Codec;
use lepus::rpc::DynamicReply;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::app::App;
use crate::args::Format;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::{json_text, notation};
use arguments::{Arguments, Json};
use target::{Body, Target};

/// Calls a method of a service, and writes its reply as JSON
///
/// No contract is needed: every Lepus server reads JSON and replies in it. The service's queue has its name, mostly; if
/// there is no such queue, running programs are asked which queue it is.
///
/// Arguments are one JSON text (an object by their names, an array, or the one argument of a method with bare
/// parameters), @FILE with such a text, name=value pairs, or - to read a JSON text from each line of stdin and make a
/// call for each. In a pair, a value that is JSON is that JSON, and any other a text: n=30 is a number, name=hare and
/// n='"30"' are texts.
///
/// The method's own error goes to stdout too, and ends the program with 3; a status with 64 and its gRPC code, which for
/// a timeout is 68; a service that nobody serves with 4. Ctrl-C drops the call.
///
/// JSON is written as the server sent it. A MessagePack reply is written as JSON, with bytes as {"$bytes": "base64"}, an
/// extension as {"$ext": [type, "base64"]}, a map with other keys than texts as {"$map": [[key, value], ...]}, and NaN
/// as {"$float": "NaN"}.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus call calculator.divide dividend=84 divisor=2
  lepus call calculator.divide '{\"dividend\":84,\"divisor\":2}'
  lepus call images.resize @job.json --timeout 1m -H tenant=hare
  cat jobs.jsonl | lepus call images.resize -
  lepus call calculator.divide dividend=84 divisor=2 --repeat 1000")]
pub(crate) struct Call {
    /// The service and the method, with a dot between them
    #[arg(value_name = "SERVICE.METHOD")]
    target: String,
    /// JSON, @FILE, name=value pairs, or - for a call for each line of stdin
    #[arg(value_name = "ARGUMENTS", allow_negative_numbers = true)]
    arguments: Vec<String>,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
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
    /// The method has no reply: waits until the broker has the request
    #[arg(long, conflicts_with = "raw")]
    oneway: bool,
    /// The method may run twice: sends the request again if the connection is lost
    #[arg(long)]
    idempotent: bool,
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
        let reply = self.reply(app, &mut target, &body).await?;
        self.show(app, &target, &reply, app.out.format() != Format::Jsonl)
    }

    /// A call for each line of stdin, and a line for each reply. One that fails does not end the others; the program
    /// ends with the code of the first that failed.
    async fn lines(&self, app: &App, mut target: Target) -> Result<Exit, Failure> {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut exit = Exit::Ok;
        let mut number = 0_u64;
        loop {
            let line = lines.next_line().await;
            let line =
                line.map_err(|error| Failure::usage(format!("stdin cannot be read: {error}")))?;
            let Some(line) = line else { return Ok(exit) };
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let ended = match self.line(app, &mut target, &line).await {
                // The reader of stdout has gone.
                Err(failure) if failure.text().is_empty() => return Err(failure),
                Err(failure) => {
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
    }

    async fn line(&self, app: &App, target: &mut Target, line: &str) -> Result<Exit, Failure> {
        let body = self.body(&arguments::json(line)?.into())?;
        let reply = self.reply(app, target, &body).await?;
        self.show(app, target, &reply, false)
    }

    /// Makes one call.
    async fn reply(
        &self,
        app: &App,
        target: &mut Target,
        body: &Body,
    ) -> Result<DynamicReply, Failure> {
        let connection = app.connect().await?;
        target
            .call(
                connection,
                app.timeout(),
                body,
                |client, method, arguments| {
                    let mut call = client.call(method, arguments).timeout(app.timeout());
                    for (name, value) in &self.headers {
                        call = call.header(name, value.as_str());
                    }
                    if let Some(priority) = self.priority {
                        call = call.priority(priority);
                    }
                    if self.fail_fast {
                        call = call.fail_fast();
                    }
                    if self.oneway {
                        call = call.oneway();
                    }
                    if self.idempotent {
                        call = call.idempotent();
                    }
                    call
                },
            )
            .await
    }

    fn show(
        &self,
        app: &App,
        target: &Target,
        reply: &DynamicReply,
        is_pretty: bool,
    ) -> Result<Exit, Failure> {
        let exit = match reply.is_own_error() {
            true => Exit::OwnError,
            false => Exit::Ok,
        };
        if self.raw {
            app.out.bytes(reply.body())?;
        } else if !self.oneway {
            let json = notation::to_json(reply.codec(), reply.body()).map_err(|reason| {
                let (codec, bytes) = (reply.codec().content_type(), reply.body().len());
                let text =
                    format!("the reply is no valid {codec} ({bytes} bytes, see --raw): {reason}");
                Failure::new(Exit::Status(lepus::Code::Internal), text)
            })?;
            app.out.text(&match is_pretty {
                true => json_text::pretty(&json),
                false => json_text::compact(&json),
            })?;
        }
        if exit == Exit::OwnError {
            note(&format!("error: {target} returned its own error"));
        }
        Ok(exit)
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

/// A header: a name and a value, which may be empty.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
