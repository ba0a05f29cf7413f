//! Calls and pushes that could not be sent: their errors tell why, and end at once if waiting is in vain.

use lepus::{Code, Connection, Error, Outcome, WorkQueue, amqp::ConnectionState};
use lepus_broker::{Accept, Broker, Cut, Target};
use lepus_tests::eventually::eventually;
use lepus_tests::probe::{ProbeClient, Subject, serve};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);

async fn broker() -> (Broker, Connection) {
    let broker = Broker::start().await.unwrap();
    let builder = Connection::builder(&broker.uri());
    let builder = builder.backoff(Duration::from_millis(10), Duration::from_millis(50));
    let connection = builder.open().await.unwrap();
    (broker, connection)
}

/// The cause of an error, which is one of Lepus itself.
fn cause(error: &Error) -> &Error {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.unwrap_or_else(|| panic!("no cause: {error:?}"))
}

#[tokio::test]
async fn a_refused_connection_is_the_cause() {
    let (broker, connection) = broker().await;
    let probe = ProbeClient::new(&connection);
    let producer = WorkQueue::<u8>::new("unsent").producer(&connection);
    assert!(probe.echo("x".into()).await.unwrap_err().is_unroutable());
    broker.faults().accept(Accept::Refuse);
    broker.faults().cut(Target::All, Cut::Rst);
    let mut state = connection.state();
    let is_refused = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.is_connect());
    state.wait_for(is_refused).await.unwrap();

    let error = probe.echo("x".into()).timeout(SHORT).await.unwrap_err();
    let call = error.rpc().unwrap();
    let push = producer.push(&1).timeout(SHORT).await.unwrap_err();
    for error in [call, &push] {
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
        assert_eq!(error.grpc_code(), Code::DeadlineExceeded);
        assert!(cause(error).is_connect(), "{error:?}");
    }
}

#[tokio::test]
async fn a_lost_connection_to_a_silent_broker_is_the_cause() {
    let (broker, connection) = broker().await;
    let probe = ProbeClient::new(&connection);
    assert!(probe.echo("x".into()).await.unwrap_err().is_unroutable());
    // Attempts to connect are accepted, and get no answer.
    broker.faults().accept(Accept::Silence);
    broker.faults().cut(Target::All, Cut::Rst);
    let mut state = connection.state();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    let error = probe.echo("x".into()).timeout(SHORT).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    assert!(cause(error.rpc().unwrap()).is_disconnected(), "{error:?}");
}

#[tokio::test]
async fn a_reply_queue_that_is_not_permitted_ends_calls_at_once() {
    let (broker, connection) = broker().await;
    let serving = Connection::open(&broker.uri()).await.unwrap();
    let server = serve(&serving, &Arc::new(Subject::default()));
    let _server = server.start().await.unwrap();
    assert!(broker.faults().deny_queues(Target::All, true) > 0);
    let probe = ProbeClient::new(&connection);
    for _ in 0..3 {
        let call = probe.echo("x".into()).timeout(HOUR).into_future();
        let answer = timeout(LONG, call).await.expect("before its deadline");
        let error = answer.unwrap_err();
        assert_eq!(error.amqp_code(), Some(403), "{error:?}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
        assert_eq!(error.grpc_code(), Code::Internal);
        assert_eq!(error.public_message(), "internal error");
        assert!(error.to_string().contains("lepus.reply."), "{error}");
    }
    // It is attempted again, so that calls succeed once the permission is there.
    broker.faults().deny_queues(Target::All, false);
    eventually("a call succeeds", || async {
        probe.echo("x".into()).await.map(drop)
    })
    .await;
}
