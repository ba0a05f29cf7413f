//! The embedded broker beside RabbitMQ, frame by frame.

mod fidelity;
mod transactions;
