//! Requests and replies that no client or server of ours would send. Each costs its sender an
//! answer at most, and nobody else anything: the worker that met it goes on, at a concurrency of
//! one, where a request that is not settled would be its last.

mod headers;
mod json;
mod replies;
mod requests;

use lapin::BasicProperties;
use lepus::Connection;
use lepus_tests::Env;
use lepus_tests::peer::short;
use std::time::Duration;

/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);

/// A service with arguments that may be missing.
#[lepus::service(codec = "json")]
trait Zoom {
    /// Which of them there were.
    async fn zoom(&self, width: u64, height: Option<u64>, fit: std::option::Option<bool>)
    -> String;
    #[rpc(params = "bare")]
    async fn half(&self, x: f64) -> f64;
}

struct Glass;

impl Zoom for Glass {
    async fn zoom(&self, width: u64, height: Option<u64>, fit: Option<bool>) -> String {
        format!("{width} {height:?} {fit:?}")
    }

    async fn half(&self, x: f64) -> f64 {
        x / 0.0
    }
}

async fn zoom(env: &Env, serving: &Connection) -> lepus::Running {
    let server = lepus::Server::new(serving).serve(ZoomServer::new(Glass));
    // It is deleted at the end of the test.
    env.name("zoom");
    server.start().await.unwrap()
}

async fn limited(env: &Env, bytes: usize) -> Connection {
    let opened = env.builder().max_message_size(bytes).open().await;
    opened.unwrap_or_else(|error| panic!("{error}"))
}

fn id(text: &str) -> BasicProperties {
    BasicProperties::default().with_correlation_id(short(text))
}
