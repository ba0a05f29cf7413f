//! The actors that open streams, read them at any pace, and leave some; each writes down what it sees.

use crate::actors::Shift;
use crate::book::Book;
use crate::dice::Dice;
use crate::streams::StreamEnd;
use crate::uploaders;
use crate::uploads::UploadEnd;
use futures_util::future::join_all;
use lepus::{CallError, Connection, Streaming};
use lepus_tests::chaos_peers::{ChaosClient, OwnEnd, is_fault};
use std::sync::Arc;
use std::time::Duration;

/// A stream whose next item does not come within this time, and no end either, is none that ends. The server sends items
/// as fast as they are read, and a peer that is gone is missed by a probe after ten seconds.
pub const STILL: Duration = Duration::from_secs(60);

/// Opens streams and reads them until the shift is over.
pub async fn read(connection: Connection, mut dice: Dice, shift: Arc<Shift>, book: Arc<Book>) {
    let chaos = ChaosClient::new(&connection);
    while !shift.is_over() {
        let burst = (0..1 + dice.below(6)).map(|_| {
            let plan = Plan::draw(&mut dice, shift.number());
            plan.follow(&chaos, &book)
        });
        join_all(burst.collect::<Vec<_>>()).await;
        dice.idle(0, 100).await;
    }
}

/// The way in which a stream is read.
struct Plan {
    id: u64,
    length: u64,
    window: u32,
    limit: Duration,
    /// The reader leaves after so many items.
    leaves_after: Option<u64>,
    /// One item of so many is waited with.
    pause_each: Option<u64>,
    source: Source,
    dice: Dice,
}

/// The method that the items come from.
enum Source {
    /// It makes them.
    Numbered,
    /// It sends those back that the reader sends, with a pause each time after so many.
    Echoed { pause_each: Option<u64> },
}

/// Reads one stream to its end.
pub async fn read_one(chaos: &ChaosClient, book: &Arc<Book>, id: u64, length: u64) -> StreamEnd {
    let plan = Plan {
        id,
        length,
        window: 16,
        limit: Duration::from_secs(5),
        leaves_after: None,
        pause_each: None,
        source: Source::Numbered,
        dice: Dice::of(id, "the pace of a stream"),
    };
    plan.follow(chaos, book).await
}

impl Plan {
    fn draw(dice: &mut Dice, id: u64) -> Self {
        let length = dice.below(300);
        Self {
            id,
            length,
            window: 1 + u32::try_from(dice.below(40)).expect("small"),
            limit: dice.millis(300, 3_000),
            leaves_after: (dice.below(4) == 0).then(|| dice.below(length + 1)),
            pause_each: uploaders::pause_each(dice),
            source: match dice.below(3) {
                0 => Source::Echoed {
                    pause_each: uploaders::pause_each(dice),
                },
                _ => Source::Numbered,
            },
            dice: Dice::of(id, "the pace of a stream"),
        }
    }

    async fn follow(mut self, chaos: &ChaosClient, book: &Arc<Book>) -> StreamEnd {
        let (id, length) = (self.id, self.length);
        book.streams.open(id, length);
        let end = match self.source {
            Source::Numbered => {
                let call = chaos.numbered(id, length).window(self.window);
                self.read(call.timeout(self.limit), book).await
            }
            Source::Echoed { pause_each } => {
                let items = uploaders::items(Arc::clone(book), id, (length, length), pause_each);
                let call = chaos.echoed(id, items).window(self.window);
                let end = self.read(call.timeout(self.limit), book).await;
                book.uploads.ended(id, uploaded(end));
                end
            }
        };
        book.streams.ended(id, end);
        end
    }

    async fn read(
        &mut self,
        call: impl IntoFuture<Output = Result<Items, CallError<OwnEnd>>>,
        book: &Book,
    ) -> StreamEnd {
        let id = self.id;
        let mut items = match call.await {
            Ok(items) => items,
            // It may be the first item.
            Err(CallError::Service(error)) => return own(id, &error, book),
            Err(CallError::Rpc(error)) if error.may_have_executed() => return StreamEnd::Unknown,
            Err(CallError::Rpc(_)) => return StreamEnd::NotRun,
        };
        loop {
            if self.leaves_after == Some(items.items()) {
                return StreamEnd::Dropped;
            }
            let Ok(item) = tokio::time::timeout(STILL, items.next()).await else {
                book.complain(format!(
                    "16: stream {id} stands still after {} items",
                    items.items()
                ));
                return StreamEnd::Dropped;
            };
            match item {
                Some(Ok(item)) => book.streams.item(id, item),
                Some(Err(CallError::Service(error))) => return own(id, &error, book),
                Some(Err(CallError::Rpc(error))) => {
                    is_expected(id, &error, book);
                    return StreamEnd::Broken;
                }
                None => {
                    if OwnEnd::is_of(id) {
                        book.complain(format!("16: stream {id} ends without its own error"));
                    }
                    return StreamEnd::Complete;
                }
            }
            if self
                .pause_each
                .is_some_and(|each| items.items() % each == 0)
            {
                self.dice.idle(0, 30).await;
            }
        }
    }
}

/// The items of a stream.
type Items = Streaming<(u64, u64), OwnEnd>;

/// The end of the items that were sent for a stream that has ended so.
fn uploaded(end: StreamEnd) -> UploadEnd {
    match end {
        StreamEnd::Complete => UploadEnd::Answered,
        StreamEnd::Broken | StreamEnd::Unknown => UploadEnd::Unknown,
        StreamEnd::NotRun => UploadEnd::NotRun,
        StreamEnd::Dropped => UploadEnd::Dropped,
    }
}

/// The end of a stream whose method ends it by an error of its own.
fn own(id: u64, error: &OwnEnd, book: &Book) -> StreamEnd {
    if error.id != id || !OwnEnd::is_of(id) {
        book.complain(format!("3: stream {id} ends as another one: {error:?}"));
    }
    StreamEnd::Complete
}

/// Faults of the network and of processes end a stream by a loss or by the end of its server, and by nothing else: an
/// error that does not decode, or a broken rule of streams, would be an item that was lost or doubled.
fn is_expected(id: u64, error: &lepus::Error, book: &Book) {
    if !is_fault(error) {
        book.complain(format!("16: stream {id} is ended by {error}"));
    }
}
