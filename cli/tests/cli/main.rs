//! The command `lepus`, run as a person would run it: as a child process, against both brokers.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod arguments;
mod bench;
mod broker;
mod call;
mod call_forms;
mod check;
mod dead;
mod discovery;
mod events;
mod jobs;
mod lepus;
mod on;
mod top;
mod topology;
mod tour;
mod workshop;
