//! Decisions: retries, settlements, acknowledgements, calls in flight, refused messages. Without I/O,
//! clock and lock.

pub(crate) mod acks;
pub(crate) mod backoff;
pub(crate) mod in_flight;
pub(crate) mod refusal;
pub(crate) mod retry;
pub(crate) mod settle;
pub(crate) mod verdict;
