//! Many jobs pushed at once: each is handed over before the confirm of the one before has come.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::producer::{Parcel, Till};
use crate::error::Error;
use crate::publish::{MAX_UNCONFIRMED, PublishFailure, StartedPublish};

type Outcome = Result<(), Error>;

/// A push by itself, with its place among the outcomes.
type Slow = Pin<Box<dyn Future<Output = (usize, Outcome)> + Send>>;

pub(super) struct Many<'a> {
    till: &'a Till,
    /// Those that have not ended yet are `Ok` here.
    outcomes: Vec<Outcome>,
    /// In the order in which they were handed over: mostly that of their confirms too.
    under_way: VecDeque<(usize, Parcel, StartedPublish<'a>)>,
    /// Those that there was something to wait for, or that are tried again: the queue may have been
    /// missing.
    slow: FuturesUnordered<Slow>,
}

impl<'a> Many<'a> {
    pub(super) fn new(till: &'a Till) -> Self {
        Self {
            till,
            outcomes: Vec::new(),
            under_way: VecDeque::new(),
            slow: FuturesUnordered::new(),
        }
    }

    pub(super) async fn push(&mut self, parcel: Result<Parcel, Error>) {
        let at = self.outcomes.len();
        let parcel = match parcel {
            Ok(parcel) => parcel,
            Err(error) => return self.outcomes.push(Err(error)),
        };
        self.outcomes.push(Ok(()));
        let publisher = self.till.publisher();
        if at == 0 {
            publisher.wait_until_ready(self.till.limit()).await;
        }
        // The places may be taken by those that are under way here.
        while self.under_way.len() + self.slow.len() >= MAX_UNCONFIRMED || publisher.is_full() {
            if !self.end_one().await {
                break;
            }
        }
        // Not before those that wait.
        let begun = if self.slow.is_empty() {
            publisher.try_start(&parcel.message(), self.till.limit())
        } else {
            None
        };
        match begun {
            Some(Ok(begun)) => self.under_way.push_back((at, parcel, begun)),
            Some(Err(fault)) => self.failed(at, parcel, fault),
            None => {
                let push = async move { (at, parcel.push().await) };
                self.slow.push(Box::pin(push));
            }
        }
    }

    /// Waits for the oldest one; false if there is none.
    async fn end_one(&mut self) -> bool {
        if let Some((at, parcel, begun)) = self.under_way.pop_front() {
            if let Err(fault) = begun.wait().await {
                self.failed(at, parcel, fault);
            }
        } else if let Some((at, outcome)) = self.slow.next().await {
            self.end(at, outcome);
        } else {
            return false;
        }
        true
    }

    fn end(&mut self, at: usize, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(at) {
            *place = outcome;
        }
    }

    fn failed(&mut self, at: usize, parcel: Parcel, fault: PublishFailure) {
        if !fault.may_lack_queue() {
            return self.end(at, Err(parcel.failed(fault)));
        }
        let again = async move { (at, parcel.push_again(fault).await) };
        self.slow.push(Box::pin(again));
    }

    pub(super) async fn outcomes(mut self) -> Vec<Outcome> {
        while self.end_one().await {}
        self.outcomes
    }
}
