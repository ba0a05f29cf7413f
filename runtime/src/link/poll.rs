//! Messages taken from queues one at a time, when asked (`basic.get`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::inbox::{Delivery, Listener, Word};
use super::lane::Lane;
use super::session::Session;
use crate::error::Error;

/// A channel to take messages on.
#[derive(Debug)]
pub(crate) struct Polling {
    lane: Arc<Lane>,
    asked: Arc<Asked>,
}

type Answer = Result<Option<Box<Delivery>>, Error>;

/// Those who have asked, in the order of the broker's answers.
#[derive(Debug, Default)]
struct Asked(Mutex<VecDeque<oneshot::Sender<Answer>>>);

impl Polling {
    /// Opens a channel.
    pub(crate) async fn open(session: &Arc<Session>) -> Result<Self, Error> {
        let lane = Lane::open(session).await?;
        let asked = Arc::new(Asked::default());
        lane.listen(Arc::clone(&asked) as _);
        Ok(Self { lane, asked })
    }

    /// Where what was taken is settled.
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Takes one message from a queue, by its name on the broker: `None` when it is empty. The caller
    /// settles it on the lane.
    ///
    /// What the broker answers to a dropped future is nobody's until the channel is closed.
    pub(crate) async fn poll(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        let (asker, answer) = oneshot::channel();
        self.lane.get(queue, || self.asked.all().push_back(asker))?;
        let answer = tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| self.lane.dead())?,
            reason = self.lane.down() => Err(reason),
        };
        let delivery = answer?;
        if let Some(delivery) = &delivery {
            self.lane.delivered(delivery.tag);
        }
        Ok(delivery.map(|delivery| *delivery))
    }
}

impl Asked {
    fn all(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Asked {
    fn hear(&self, word: Word) {
        match word {
            Word::Got(delivery) => {
                let asker = self.all().pop_front();
                // Whoever does not wait any more has let go of the channel too.
                drop(asker.map(|asker| asker.send(Ok(delivery))));
            }
            Word::Closed(reason) => {
                let askers = std::mem::take(&mut *self.all());
                for asker in askers {
                    drop(asker.send(Err(reason.clone())));
                }
            }
            Word::Confirmed(_) | Word::Delivered(_) | Word::Returned(_) => {}
        }
    }
}
