//! Calls of methods that return a stream: a line of JSON for each item.

use lepus::rpc::{DynamicReply, DynamicStreaming};

use super::target::{Body, Target};
use super::{Call, exit_of, json_of};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{json_text, output};

/// The most items that are written at once.
const AT_ONCE: usize = 64;

/// Opens the stream, and writes its items as they come. The next ones are read when those before are written, so that a
/// slow reader of stdout slows the server down, and the items that wait are no more than those of the window.
pub(super) async fn run(
    call: &Call,
    app: &App,
    target: &mut Target,
    body: &Body,
) -> Result<Exit, Failure> {
    let connection = app.connect().await?;
    let (method, arguments) = (target.method().to_owned(), target.body(body));
    let client = target.client(connection)?.clone();
    let opening = call.with_stream_options(app, client.stream(&method, arguments));
    let mut items = opening.await.map_err(|error| target.failure(error))?;
    let closed = output::closed();
    tokio::pin!(closed);
    loop {
        let first = tokio::select! {
            biased;
            // The stream is dropped, which cancels it. No call for another line of stdin follows.
            () = &mut closed => return Err(Failure::reader_has_gone()),
            first = items.next() => first,
        };
        let Burst { lines, end } = Burst::read(target, first, &mut items).await;
        if !lines.is_empty() {
            // Not on this thread, which waits for signals too.
            app.out.text_apart(lines.join("\n")).await?;
        }
        match end {
            None => {}
            Some(End::Items) => return Ok(Exit::Ok),
            Some(End::OwnError(error)) => return Ok(exit_of(target, &error)),
            Some(End::Failed(failure)) => return Err(failure),
        }
    }
}

/// The items that have come, as lines of JSON.
#[derive(Default)]
struct Burst {
    lines: Vec<String>,
    /// The end of the stream, if it has come.
    end: Option<End>,
}

/// The end of a stream.
enum End {
    /// There are no more items.
    Items,
    /// The method's own error, which is the last line.
    OwnError(DynamicReply),
    Failed(Failure),
}

impl Burst {
    /// Takes this item, and those that are there already.
    async fn read(
        target: &Target,
        first: Option<Result<DynamicReply, lepus::Error>>,
        items: &mut DynamicStreaming,
    ) -> Self {
        let mut burst = Self::default();
        let mut next = first;
        loop {
            burst.end = burst.take(target, next);
            if burst.end.is_some() || burst.lines.len() >= AT_ONCE {
                return burst;
            }
            next = tokio::select! {
                biased;
                next = items.next() => next,
                () = std::future::ready(()) => return burst,
            };
        }
    }

    /// Adds an item. Returns the end, if it is that.
    fn take(
        &mut self,
        target: &Target,
        item: Option<Result<DynamicReply, lepus::Error>>,
    ) -> Option<End> {
        let item = match item {
            None => return Some(End::Items),
            Some(Err(error)) => return Some(End::Failed(target.failure(error))),
            Some(Ok(item)) => item,
        };
        match json_of(&item) {
            Ok(json) => self.lines.push(json_text::compact(&json)),
            Err(failure) => return Some(End::Failed(failure)),
        }
        item.is_own_error().then_some(End::OwnError(item))
    }
}
