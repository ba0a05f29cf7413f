//! Table of the requests that their callers have given up, and of the handlers that are to stop when theirs is.
//!
//! A request is known by a keyed hash of its reply queue and its correlation id, so that nothing is allocated for it.
//! A handler enters the table when it waits for the first time; one that ends at once never does.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sync::lock;

/// The most requests that are remembered as given up. The oldest ones are forgotten first.
const MAX_REMEMBERED: usize = 4096;

/// The requests of the servers of one connection.
#[derive(Default)]
pub(crate) struct CancelTable {
    hashes: RandomState,
    state: Mutex<TableState>,
    /// The number of requests that are remembered as given up. While it is zero, which it is where no call is
    /// dropped, no lock is taken to find out whether a request is one of them.
    remembered: AtomicUsize,
    /// Notified when requests were given up, for code that waits for it and is not the handler.
    changed: Notify,
}

#[derive(Default)]
struct TableState {
    handlers: HashMap<u64, WaitingHandler, BuildHasherDefault<HashOfKey>>,
    next_ticket: u64,
    /// The requests that were given up, with the times at which they are forgotten.
    cancelled: HashMap<u64, Instant, BuildHasherDefault<HashOfKey>>,
    /// Those in `cancelled`, the oldest first.
    order: VecDeque<u64>,
}

struct WaitingHandler {
    /// Tells this handler from another one of the same request, as after a redelivery.
    ticket: u64,
    waker: Waker,
    is_cancelled: bool,
}

/// The hash of a key, which is a hash already.
#[derive(Default)]
struct HashOfKey(u64);

impl Hasher for HashOfKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl CancelTable {
    /// The key of a message.
    fn message(&self, reply_to: &str, correlation_id: &[u8]) -> u64 {
        self.hashes.hash_one((reply_to, correlation_id))
    }

    /// The key of a call in a message that has several.
    fn call(&self, message: u64, number: u64) -> u64 {
        self.hashes.hash_one((message, number))
    }

    /// The key of a request by its id: that of a message, or that of a call in a message that has several.
    fn key(&self, reply_to: &str, id: &[u8]) -> u64 {
        match split_id(id) {
            Some((message, number)) => self.call(self.message(reply_to, message), number),
            None => self.message(reply_to, id),
        }
    }

    /// Notes that requests were given up, until `expires`, and wakes their handlers. An id is a correlation id; that
    /// of a call in a message that has several is the message's, a slash, and the number of the call.
    pub(crate) fn cancel<'a>(
        &self,
        reply_to: &str,
        ids: impl IntoIterator<Item = &'a [u8]>,
        expires: Instant,
    ) {
        let mut wakers = Vec::new();
        let mut state = lock(&self.state);
        for id in ids {
            let key = self.key(reply_to, id);
            state.remember(key, expires);
            if let Some(handler) = state.handlers.get_mut(&key) {
                handler.is_cancelled = true;
                wakers.push(handler.waker.clone());
            }
        }
        self.forget_expired(&mut state);
        drop(state);
        // Outside of the lock, which a handler may take when it is woken.
        for waker in wakers {
            waker.wake();
        }
        self.changed.notify_waiters();
    }

    fn is_cancelled(&self, key: u64) -> bool {
        if self.remembered.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut state = lock(&self.state);
        self.forget_expired(&mut state);
        state.is_cancelled(key)
    }

    fn forget_expired(&self, state: &mut TableState) {
        state.forget_expired(Instant::now());
        let remembered = state.cancelled.len();
        self.remembered.store(remembered, Ordering::Release);
    }
}

impl TableState {
    fn remember(&mut self, key: u64, expires: Instant) {
        match self.cancelled.get_mut(&key) {
            Some(known) => *known = expires.max(*known),
            None => {
                self.cancelled.insert(key, expires);
                self.order.push_back(key);
            }
        }
    }

    /// Forgets the oldest ones as long as they are over, or too many.
    fn forget_expired(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let expires = self.cancelled.get(oldest);
            let is_over = expires.is_none_or(|expires| *expires <= now);
            if !is_over && self.order.len() <= MAX_REMEMBERED {
                return;
            }
            self.cancelled.remove(oldest);
            self.order.pop_front();
        }
    }

    fn is_cancelled(&self, key: u64) -> bool {
        let handler = self.handlers.get(&key);
        let expires = self.cancelled.get(&key);
        expires.is_some_and(|expires| *expires > Instant::now())
            || handler.is_some_and(|handler| handler.is_cancelled)
    }
}

/// The correlation id of the message and the number of the call, if an id has both. A number with a sign or with zeros
/// in front is part of a correlation id.
fn split_id(id: &[u8]) -> Option<(&[u8], u64)> {
    let slash = id.iter().rposition(|byte| *byte == b'/')?;
    let (message, digits) = (id.get(..slash)?, id.get(slash + 1..)?);
    let is_number = match digits {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    Some((message, digits.parse().ok()?))
}

impl fmt::Debug for CancelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelTable")
            .field("remembered", &self.remembered)
            .finish_non_exhaustive()
    }
}

/// A message with several calls, each of which its caller can give up.
#[derive(Debug)]
pub(crate) struct BatchKey {
    table: Arc<CancelTable>,
    message: u64,
}

impl BatchKey {
    pub(crate) fn new(table: &Arc<CancelTable>, reply_to: &str, correlation_id: &[u8]) -> Self {
        Self {
            table: Arc::clone(table),
            message: table.message(reply_to, correlation_id),
        }
    }

    /// The call of this number. Its handler `stops` when it is given up.
    pub(crate) fn call(&self, number: u64, stops: bool) -> CancelKey {
        let key = self.table.call(self.message, number);
        CancelKey::of(Arc::clone(&self.table), key, stops)
    }
}

/// A request that its caller can give up.
#[derive(Debug)]
pub(crate) struct CancelKey {
    table: Arc<CancelTable>,
    key: u64,
    /// Whether its handler is dropped then.
    stops: bool,
    /// The ticket of its handler in the table; zero until that waits.
    ticket: AtomicU64,
}

impl Clone for CancelKey {
    /// The same request, for others than its handler.
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.table), self.key, self.stops)
    }
}

impl CancelKey {
    /// The request of this reply queue and correlation id. Its handler `stops` when it is given up.
    pub(crate) fn new(
        table: &Arc<CancelTable>,
        (reply_to, correlation_id): (&str, &[u8]),
        stops: bool,
    ) -> Self {
        let key = table.key(reply_to, correlation_id);
        Self::of(Arc::clone(table), key, stops)
    }

    fn of(table: Arc<CancelTable>, key: u64, stops: bool) -> Self {
        Self {
            table,
            key,
            stops,
            ticket: AtomicU64::new(0),
        }
    }

    /// Whether the handler is to be dropped before it is polled.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stops && self.is_cancelled()
    }

    /// Has the handler, which is pending, woken when its caller gives the call up. `true` if that has happened and it
    /// is to be dropped. It [leaves](Self::leave) the table when it has ended.
    pub(crate) fn wait(&self, waker: &Waker) -> bool {
        if !self.stops {
            return false;
        }
        let mut state = lock(&self.table.state);
        if state.is_cancelled(self.key) {
            return true;
        }
        // The handler alone reads and writes it.
        let ticket = self.ticket.load(Ordering::Relaxed);
        let replaced = if ticket == 0 {
            state.next_ticket += 1;
            let handler = WaitingHandler {
                ticket: state.next_ticket,
                waker: waker.clone(),
                is_cancelled: false,
            };
            self.ticket.store(state.next_ticket, Ordering::Relaxed);
            let replaced = state.handlers.insert(self.key, handler);
            replaced.map(|handler| handler.waker)
        } else {
            let handler = state.handlers.get_mut(&self.key);
            let handler = handler
                .filter(|handler| handler.ticket == ticket && !handler.waker.will_wake(waker));
            handler.map(|handler| std::mem::replace(&mut handler.waker, waker.clone()))
        };
        drop(state);
        // Outside of the lock, because a task may be dropped with its last waker.
        drop(replaced);
        false
    }

    /// Removes the handler from the table, if it has waited.
    pub(crate) fn leave(&self) {
        let ticket = self.ticket.swap(0, Ordering::Relaxed);
        if ticket == 0 {
            return;
        }
        let mut state = lock(&self.table.state);
        let handler = state.handlers.get(&self.key);
        let is_own = handler.is_some_and(|handler| handler.ticket == ticket);
        let left = is_own.then(|| state.handlers.remove(&self.key));
        drop(state);
        // Outside of the lock, as in `wait`.
        drop(left);
    }

    /// Whether the caller has given the call up.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.table.is_cancelled(self.key)
    }

    /// Completes when the caller gives the call up. Cancel-safe.
    pub(crate) async fn cancelled(&self) {
        loop {
            let changed = self.table.changed.notified();
            tokio::pin!(changed);
            // From here on, no notification is missed.
            changed.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;
    use std::time::Duration;

    const QUEUE: &str = "lepus.reply.7";
    const SHORT: Duration = Duration::from_secs(1);

    fn request(table: &Arc<CancelTable>, id: &[u8]) -> CancelKey {
        CancelKey::new(table, (QUEUE, id), true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_given_up_by_its_own_id_alone_until_it_expires() {
        let table = Arc::new(CancelTable::default());
        let batch = BatchKey::new(&table, QUEUE, b"x");
        let requests = [
            request(&table, b"x1"),
            batch.call(1, true),
            batch.call(12, true),
            CancelKey::new(&table, ("lepus.reply.8", b"x1"), true),
            request(&table, b"x/012"),
        ];
        let cancelled = || requests.each_ref().map(CancelKey::is_cancelled);
        let ids: [&[u8]; 1] = [b"x1"];
        table.cancel(QUEUE, ids, Instant::now() + SHORT);
        assert_eq!(cancelled(), [true, false, false, false, false]);
        let ids: [&[u8]; 2] = [b"x/12", b"another"];
        table.cancel(QUEUE, ids, Instant::now() + 2 * SHORT);
        assert_eq!(cancelled(), [true, false, true, false, false]);
        tokio::time::advance(SHORT).await;
        assert_eq!(cancelled(), [false, false, true, false, false]);
        tokio::time::advance(SHORT).await;
        assert_eq!(cancelled(), [false; 5]);
        assert_eq!(table.remembered.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_remembered_as_may_be() {
        let table = Arc::new(CancelTable::default());
        let ids: Vec<_> = (0..=MAX_REMEMBERED)
            .map(|number| number.to_string().into_bytes())
            .collect();
        let given_up = ids.iter().map(Vec::as_slice);
        table.cancel(QUEUE, given_up, Instant::now() + SHORT);
        assert_eq!(table.remembered.load(Ordering::Relaxed), MAX_REMEMBERED);
        assert!(!request(&table, &ids[0]).is_cancelled());
        assert!(ids[1..].iter().all(|id| request(&table, id).is_cancelled()));
    }

    #[tokio::test]
    async fn a_handler_that_waits_is_woken_and_leaves_nothing_behind() {
        let table = Arc::new(CancelTable::default());
        let observer = request(&table, b"x1");
        let handler = observer.clone();
        let waiting = std::future::poll_fn(|context| {
            if handler.is_stopped() || handler.wait(context.waker()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let cancel = async {
            assert_eq!(lock(&table.state).handlers.len(), 1);
            let ids: [&[u8]; 1] = [b"x1"];
            table.cancel(QUEUE, ids, Instant::now() + SHORT);
        };
        tokio::join!(waiting, cancel, observer.cancelled());
        handler.leave();
        assert!(lock(&table.state).handlers.is_empty());
        // One that begins afterwards does not run.
        assert!(observer.wait(Waker::noop()) && observer.is_stopped());
        // One that is not to stop runs on, and can be asked.
        let runs_on = CancelKey::new(&table, (QUEUE, b"x1"), false);
        assert!(!runs_on.is_stopped() && !runs_on.wait(Waker::noop()));
        assert!(runs_on.is_cancelled());
    }

    #[test]
    fn a_handler_leaves_the_entry_of_the_next_one_of_its_request_alone() {
        let table = Arc::new(CancelTable::default());
        let (first, second) = (request(&table, b"x1"), request(&table, b"x1"));
        assert!(!first.wait(Waker::noop()) && !second.wait(Waker::noop()));
        first.leave();
        assert_eq!(lock(&table.state).handlers.len(), 1);
        second.leave();
        assert!(lock(&table.state).handlers.is_empty());
    }

    #[test]
    fn an_id_is_split_at_its_last_slash_before_a_number() {
        for (id, parts) in [
            (&b"x"[..], None),
            (b"x/0", Some((&b"x"[..], 0))),
            (b"a/b/18446744073709551615", Some((&b"a/b"[..], u64::MAX))),
            (b"/7", Some((&b""[..], 7))),
            (b"x/18446744073709551616", None),
            (b"x/", None),
            (b"x/07", None),
            (b"x/+7", None),
            (b"x/7a", None),
        ] {
            assert_eq!(split_id(id), parts, "{id:?}");
        }
    }
}
