//! Tests of the generated code over a stub of the runtime, without the crate `lepus`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a test"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::todo,
    reason = "a test may fail loudly"
)]

mod service;
mod stub;
mod tasks;
