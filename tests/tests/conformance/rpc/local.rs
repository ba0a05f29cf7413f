//! Clients without a broker.

use super::LONG;
use super::shapes::{Shaper, ShapesClient, call_every_shape};
use lepus::{Code, rpc::Client};
use lepus_tests::probe::{DivideByZero, ProbeClient, ProbeServer, Subject};
use std::sync::Arc;
use std::time::Duration;

/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);

fn probe() -> (Arc<Subject>, ProbeClient) {
    let subject = Arc::new(Subject::default());
    let client = Client::local(ProbeServer::from_arc(Arc::clone(&subject)));
    (subject, ProbeClient::from(client))
}

#[tokio::test]
async fn the_same_stub_calls_an_implementation_in_process() {
    let probe = ProbeClient::local(Subject::default());
    assert_eq!(probe.echo("near".into()).await.unwrap(), "near");
    let error = probe.divide(3, 0).await.unwrap_err();
    assert_eq!(error.service(), Some(&DivideByZero { dividend: 3 }));
    call_every_shape(&ShapesClient::local(Shaper)).await;
    let facts = probe
        .facts()
        .header("tenant", "hare")
        .timeout(LONG)
        .await
        .unwrap();
    assert_eq!(
        (facts.service.as_str(), facts.method.as_str()),
        ("probe", "facts")
    );
    assert_eq!(facts.headers["tenant"], "hare");
    assert!(facts.millis_left.unwrap() <= 30_000);
}

#[tokio::test]
async fn a_panic_is_an_internal_error() {
    let (_, probe) = probe();
    let error = probe.panic("boom".into()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal));
    let text = error.to_string();
    assert!(
        text.contains("`panic` panicked") && !text.contains("boom"),
        "{text}"
    );
    assert_eq!(probe.echo("alive".into()).await.unwrap(), "alive");
}

#[tokio::test]
async fn a_handler_is_stopped_at_its_deadline_and_with_its_call() {
    let (subject, probe) = probe();
    let error = probe.hold(1).timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    subject.gate.left(1).await;
    let call = probe.hold(2).send().await.unwrap();
    subject.gate.entered(2).await;
    drop(call);
    subject.gate.left(2).await;
}

#[tokio::test]
async fn a_oneway_call_does_not_wait_for_its_handler() {
    let (subject, probe) = probe();
    probe.note(1).await.unwrap();
    subject.gate.entered(1).await;
    subject.gate.open(1);
    probe.note(2).timeout(FAIR).await.unwrap();
    // Stopped at its deadline all the same.
    subject.gate.left(1).await;
    assert_eq!(subject.ids(), [1, 2]);
}
