//! Work queues, their producers and their workers.

mod dead_letters;
mod layers;
mod node;
mod plain;
mod producer;
mod queues;
mod refused;
mod retry;
mod shutdown;
mod tasks;
