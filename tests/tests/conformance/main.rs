//! The behaviour that is promised, on the embedded broker and on RabbitMQ: each test runs on both.

mod allocations;
mod broker;
mod connection;
mod control;
mod durations;
mod harness;
mod interop;
mod jobs;
mod protocol;
mod pubsub;
mod rpc;
mod stats;
mod streams;
mod wire;
