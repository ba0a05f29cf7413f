//! The works: the code that a process runs for its task.

mod events;
mod jobs;
mod local;
mod scale;
mod streams;

pub use scale::service_name;

use std::io::Write;

use crate::child;
use crate::contenders;
use crate::load;
use crate::measure::Sample;
use crate::task::{Role, Task, Work};

/// Does it: a server says that it is there and serves on, a client says what it has measured.
pub async fn perform(task: Task) {
    match task.role {
        Role::Broker => {
            let broker = lepus_broker::Broker::start().await.expect("a broker");
            say(&broker.uri());
            std::future::pending::<()>().await;
        }
        Role::Server => {
            let address = match task.work {
                Work::Methods(count) => scale::serve_methods(&task, count).await,
                Work::Services(count) => scale::serve_services(&task, count).await,
                Work::Stream { .. } | Work::StreamsAtRest(_) => streams::serve(&task).await,
                _ => contenders::serve(&task).await,
            };
            say(&address);
            std::future::pending::<()>().await;
        }
        Role::Client => {
            let sample = measure(&task).await;
            say(&serde_json::to_string(&sample).expect("JSON"));
        }
    }
}

async fn measure(task: &Task) -> Sample {
    let operation = match task.work {
        Work::Rpc => contenders::client(task).await,
        Work::Local => local::client(task),
        Work::Handler => local::handler(task),
        Work::PushAll => jobs::push_all(task).await,
        Work::Push => jobs::push(task).await,
        Work::Events { confirmed } => events::client(task, confirmed).await,
        Work::Methods(count) => scale::call_methods(task, count).await,
        Work::Services(count) => scale::call_services(task, count).await,
        Work::Stream { window, others } => streams::client(task, window, others).await,
        Work::StreamsAtRest(count) => return streams::at_rest(task, count).await,
        Work::Consume => return jobs::consume(task).await,
        Work::Waiting(count) => return scale::waiting(task, count).await,
    };
    load::measure(task, operation).await
}

/// Whether a work has a server in a process of its own.
pub fn has_server(work: Work) -> bool {
    matches!(
        work,
        Work::Rpc
            | Work::Methods(_)
            | Work::Services(_)
            | Work::Stream { .. }
            | Work::StreamsAtRest(_)
    )
}

/// To the parent, a line.
fn say(line: &str) {
    let mut out = std::io::stdout();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        child::abandoned();
    }
}
