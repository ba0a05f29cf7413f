//! Decisions on retries, settlements, acknowledgements, calls in flight, refused messages and the credit of
//! streams, without I/O,
//! clocks and locks.

pub(crate) mod acks;
pub(crate) mod backoff;
pub(crate) mod in_flight;
pub(crate) mod refusal;
pub(crate) mod retry;
pub(crate) mod settle;
pub(crate) mod stream;
pub(crate) mod verdict;
