//! Connections: how they are made and refused, watched, lost and built again, and closed.

mod addresses;
mod channels;
mod closing;
mod losing;
mod opening;
mod queues;
mod runtimes;

use lepus::Context;
use lepus_tests::probe::{Probe, ProbeClient, Subject};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(10);
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);

/// `amqp://user:password@host:port/vhost` with other credentials or another virtual host.
fn with(uri: &str, credentials: &str, vhost: Option<&str>) -> String {
    let uri: lapin::uri::AMQPUri = uri.parse().unwrap();
    let (host, port) = (uri.authority.host, uri.authority.port);
    let vhost = vhost.map(|vhost| format!("/{vhost}")).unwrap_or_default();
    format!("amqp://{credentials}@{host}:{port}{vhost}")
}

#[lepus::service(client)]
trait Unserved {
    async fn wait(&self);
}

/// For the compiler: what a handler holds may be moved between threads.
#[test]
fn contexts_and_connections_can_be_sent() {
    fn assert_send<T: Send + Sync + 'static>() {}
    assert_send::<lepus::Connection>();
    assert_send::<Context>();
    assert_send::<ProbeClient>();
    fn is_probe<T: Probe>() {}
    is_probe::<Subject>();
}
