//! The examples as child processes, and the pages that speak of them and of tests.

mod health;
mod jobs;
mod pubsub;
mod readme;
mod reliability;
mod rpc;
