//! The actors that send streams of items, at any pace, and leave some; each writes down what it sees.

use crate::actors::Shift;
use crate::book::Book;
use crate::dice::Dice;
use crate::readers::STILL;
use crate::uploads::UploadEnd;
use futures_util::future::join_all;
use futures_util::stream::{self, Stream};
use lepus::{CallError, Code, Connection};
use lepus_tests::chaos_peers::{ChaosClient, OwnEnd, is_fault};
use std::sync::Arc;
use std::time::Duration;

/// Uploads until the shift is over.
pub async fn upload(connection: Connection, mut dice: Dice, shift: Arc<Shift>, book: Arc<Book>) {
    let chaos = ChaosClient::new(&connection);
    while !shift.is_over() {
        let burst = (0..1 + dice.below(4)).map(|_| {
            let plan = Plan::draw(&mut dice, shift.number());
            plan.follow(&chaos, &book)
        });
        join_all(burst.collect::<Vec<_>>()).await;
        dice.idle(0, 100).await;
    }
}

/// Uploads all of so many items.
pub async fn upload_one(chaos: &ChaosClient, book: &Arc<Book>, id: u64, length: u64) -> UploadEnd {
    let plan = Plan {
        id,
        length,
        most: u64::MAX,
        limit: Duration::from_secs(5),
        patience: None,
        pause_each: None,
    };
    plan.follow(chaos, book).await
}

/// The way in which an upload is sent.
struct Plan {
    id: u64,
    length: u64,
    /// The method answers after so many items.
    most: u64,
    limit: Duration,
    /// The caller drops the call after so long.
    patience: Option<Duration>,
    pause_each: Option<u64>,
}

impl Plan {
    fn draw(dice: &mut Dice, id: u64) -> Self {
        let length = dice.below(300);
        Self {
            id,
            length,
            most: if dice.below(4) == 0 {
                dice.below(length + 1)
            } else {
                u64::MAX
            },
            limit: dice.millis(300, 3_000),
            patience: (dice.below(4) == 0).then(|| dice.millis(0, 400)),
            pause_each: pause_each(dice),
        }
    }

    async fn follow(self, chaos: &ChaosClient, book: &Arc<Book>) -> UploadEnd {
        let (id, length) = (self.id, self.length);
        let due = length.min(self.most);
        let items = items(Arc::clone(book), id, (length, due), self.pause_each);
        let call = chaos.gathered(id, self.most, items).timeout(self.limit);
        let patience = self.patience.unwrap_or(STILL);
        let end = match tokio::time::timeout(patience, call.into_future()).await {
            Ok(reply) => self.told(reply, book),
            Err(_) => {
                if self.patience.is_none() {
                    book.complain(format!("18: upload {id} stands still"));
                }
                UploadEnd::Dropped
            }
        };
        book.uploads.ended(id, end);
        end
    }

    fn told(&self, reply: Result<u64, CallError<OwnEnd>>, book: &Book) -> UploadEnd {
        let (id, due) = (self.id, self.length.min(self.most));
        match reply {
            Ok(read) => {
                if read != due || OwnEnd::is_of(id) {
                    book.complain(format!(
                        "18: upload {id} is answered with {read} instead of {due}, or of its own error"
                    ));
                }
                UploadEnd::Answered
            }
            Err(CallError::Service(error)) => {
                if error.id != id || !OwnEnd::is_of(id) {
                    book.complain(format!("3: upload {id} ends as another one: {error:?}"));
                }
                UploadEnd::Answered
            }
            Err(CallError::Rpc(error)) => {
                // It was not opened: in time, at all, or because the server has as many as it may.
                let is_refused = error.code() == Some(Code::ResourceExhausted);
                let is_unopened = error.is_timeout() || error.is_unroutable() || is_refused;
                if !is_fault(&error) && !is_unopened {
                    book.complain(format!("18: upload {id} is ended by {error}"));
                }
                if error.may_have_executed() {
                    UploadEnd::Unknown
                } else {
                    UploadEnd::NotRun
                }
            }
        }
    }
}

/// A pause each time after so many items, for half of those who ask.
pub fn pause_each(dice: &mut Dice) -> Option<u64> {
    (dice.below(2) == 0).then(|| 1 + dice.below(20))
}

/// The items that a caller sends: the number of the upload, and a number from 0 on.
struct Source {
    book: Arc<Book>,
    id: u64,
    given: u64,
    dice: Dice,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.book.uploads.source_dropped(self.id, self.given);
    }
}

/// So many items of an upload, which begins with this. Its method reads as many as are due, if nothing goes wrong.
pub fn items(
    book: Arc<Book>,
    id: u64,
    (length, due): (u64, u64),
    pause_each: Option<u64>,
) -> impl Stream<Item = (u64, u64)> + Send + 'static {
    book.uploads.begin(id, length, due);
    let source = Source {
        book,
        id,
        given: 0,
        dice: Dice::of(id, "the pace of an upload"),
    };
    stream::unfold(source, move |mut source| async move {
        let number = source.given;
        if number == length {
            return None;
        }
        if pause_each.is_some_and(|each| (number + 1) % each == 0) {
            source.dice.idle(0, 30).await;
        }
        source.given += 1;
        Some(((source.id, number), source))
    })
}
