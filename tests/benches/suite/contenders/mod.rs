//! The contenders: a server that echoes, and a client that calls it, for each.

mod amqprs;
pub mod lepus;
mod naive;
pub mod nats;
mod tarpc;
pub mod tonic;
mod tuned;

use crate::load::Operation;
use crate::task::{Contender, Task};

/// Serves until the process ends; gives what a client has to know.
pub async fn serve(task: &Task) -> String {
    match task.contender {
        Contender::Naive | Contender::NaiveInFull => naive::serve(task).await,
        Contender::Tuned | Contender::TunedInFull => tuned::serve(task).await,
        Contender::Amqprs => amqprs::serve(task).await,
        Contender::Tarpc => tarpc::serve(task).await,
        Contender::Nats => nats::serve(task).await,
        _ => lepus::serve(task).await,
    }
}

/// One call.
pub async fn client(task: &Task) -> Operation {
    match task.contender {
        Contender::Naive | Contender::NaiveInFull => naive::client(task).await,
        Contender::Tuned | Contender::TunedInFull => tuned::client(task).await,
        Contender::Amqprs => amqprs::client(task).await,
        Contender::Tarpc => tarpc::client(task).await,
        Contender::Nats => nats::client(task).await,
        _ => lepus::client(task).await,
    }
}

/// Why a contender is not there, if it is not.
pub fn left_out(contender: Contender) -> Option<&'static str> {
    match contender {
        Contender::Nats if !nats::has_server() => Some("there is no `nats-server` to be run"),
        _ => None,
    }
}
