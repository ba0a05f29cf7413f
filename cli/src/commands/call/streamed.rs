//! Calls of methods that return a stream: a line of JSON for each item.

use super::target::{Body, Target};
use super::{Call, exit_of, json_of};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{json_text, output};

/// Opens the stream, and writes its items as they come. The next item is read when the one before is written, so that
/// a slow reader of stdout slows the server down, and the items that wait are no more than those of the window.
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
        let next = tokio::select! {
            biased;
            // The stream is dropped, which cancels it. No call for another line of stdin follows.
            () = &mut closed => return Err(Failure::reader_has_gone()),
            next = items.next() => next,
        };
        let Some(item) = next else {
            return Ok(Exit::Ok);
        };
        let item = item?;
        let json = json_text::compact(&json_of(&item)?);
        // Not on this thread, which waits for signals too.
        app.out.text_apart(json).await?;
        if item.is_own_error() {
            return Ok(exit_of(target, &item));
        }
    }
}
