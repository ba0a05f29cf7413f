//! A connection that is lost and built again, and what becomes of its calls and servers.

use super::{LONG, SHORT, SOON, UnservedClient};
use lepus::{Code, Outcome, amqp::ConnectionState};
use lepus_tests::probe::{
    ProbeClient, RpcFixture, Subject, is_settled, serve_concurrently, transport_error,
};
use lepus_tests::proxy::{Cut, Proxy, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

const A_SECOND: Duration = Duration::from_secs(1);

conformance!(
    the_state_is_watched,
    calls_in_flight_fail_at_once_by_fin,
    calls_in_flight_fail_at_once_by_rst,
    an_idempotent_call_is_sent_again,
    a_call_waits_for_the_connection,
    a_call_that_cannot_wait_so_long_was_not_sent,
    a_server_resumes_and_an_idempotent_call_is_answered_once,
    a_call_of_a_lost_server_is_aborted_and_the_next_is_answered,
    a_reply_that_was_lost_with_its_server_comes_again,
    replies_that_stall_time_out,
    both_ends_are_cut_again_and_again,
    channels_and_deliveries_are_counted,
);

async fn the_state_is_watched(env: Env) {
    let (proxy, connection) = env.proxied().await;
    let fixture = RpcFixture::over(&env, connection.clone(), connection.clone()).await;
    fixture.is_well(&env).await;
    let mut state = connection.state();
    assert!(state.borrow().is_connected() && state.borrow().trouble().is_none());

    proxy.down().await;
    let is_down = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    let (since, error) = match state.wait_for(is_down).await.unwrap().clone() {
        ConnectionState::Reconnecting { since, error } => (since, error),
        other => panic!("{other:?}"),
    };
    assert!(error.is_disconnected(), "{error}");
    // Attempts that fail say why, and it is still the same trouble.
    let refused = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { error, .. } if error.is_connect());
    match state.wait_for(refused).await.unwrap().clone() {
        ConnectionState::Reconnecting { since: still, .. } => assert_eq!(still, since),
        other => panic!("{other:?}"),
    }
    assert!(state.borrow().trouble().is_some());

    proxy.up().await;
    state.wait_for(ConnectionState::is_connected).await.unwrap();
    fixture.is_well(&env).await;
    connection.close().await;
    assert!(matches!(
        *state.borrow_and_update(),
        ConnectionState::Closed
    ));
}

async fn calls_in_flight_fail_at_once_by_fin(env: Env) {
    calls_in_flight_fail_at_once(env, Cut::Fin).await;
}

async fn calls_in_flight_fail_at_once_by_rst(env: Env) {
    calls_in_flight_fail_at_once(env, Cut::Rst).await;
}

async fn calls_in_flight_fail_at_once(env: Env, how: Cut) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    // One at work, one in the queue, and one whose service nobody serves.
    env.name("unserved");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&env.name("unserved")).await;
    let calls = [
        fixture.probe.hold(1).timeout(LONG).send().await.unwrap(),
        fixture
            .probe
            .hold_once(2)
            .timeout(LONG)
            .send()
            .await
            .unwrap(),
    ];
    let unserved = UnservedClient::new(&fixture.calling)
        .wait()
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    raw.until_messages(&fixture.queue, 1).await;
    raw.until_messages(&env.name("unserved"), 1).await;
    assert_eq!(fixture.calling.stats().pending_calls, 3);

    assert_eq!(proxy.cut(how), 1);
    let mut errors = Vec::new();
    for call in calls {
        errors.push(call.await.unwrap_err().rpc().unwrap().clone());
    }
    errors.push(unserved.await.unwrap_err().rpc().unwrap().clone());
    for error in errors {
        assert!(
            error.is_disconnected() && error.may_have_executed(),
            "{error}"
        );
        assert!(
            !error.is_closed() && !error.is_timeout() && !error.is_unroutable(),
            "{error}"
        );
        assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
        let text = error.to_string();
        assert!(
            text.contains("the connection to the broker was lost after"),
            "{text}"
        );
        assert!(text.ends_with("(sent, no reply)"), "{text}");
    }
    assert_eq!(fixture.calling.stats().pending_calls, 0);

    // Nothing is to be done to call again.
    let again = tokio::spawn({
        let probe = fixture.probe.clone();
        async move { probe.echo("again".into()).timeout(LONG).await }
    });
    fixture.subject.gate.open_for_good();
    assert_eq!(again.await.unwrap().unwrap(), "again");
    assert_eq!(fixture.subject.ids(), [1, 2], "the server did what it had");
    fixture.is_well(&env).await;
}

async fn an_idempotent_call_is_sent_again(env: Env) {
    let (proxy, calling) = env.proxied().await;
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let _server = serve_concurrently(&serving, &subject, 10)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let call = probe.hold_idempotent(1).timeout(LONG).send().await.unwrap();
    let other = probe.hold(2).timeout(LONG).send().await.unwrap();
    subject.gate.entered(2).await;
    proxy.cut(Cut::Rst);
    assert!(other.await.unwrap_err().is_disconnected());
    // `send` has returned long ago: whoever waits sends it again.
    let call = tokio::spawn(call);
    subject.gate.entered(3).await;
    proxy.cut(Cut::Fin);
    subject.gate.entered(4).await;
    subject.gate.open_for_good();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    let runs = subject.runs();
    let mine: Vec<_> = runs.iter().filter(|run| run.id == 1).collect();
    assert_eq!(mine.len(), 3);
    assert!(
        mine.iter()
            .all(|run| run.facts.message_id == mine[0].facts.message_id),
        "{mine:?}"
    );
    assert!(
        mine.windows(2)
            .all(|runs| runs[1].facts.millis_left <= runs[0].facts.millis_left)
    );

    // Within the deadline, and what came of the first sending is not known.
    let call = probe
        .hold_idempotent(3)
        .timeout(A_SECOND)
        .send()
        .await
        .unwrap();
    proxy.down().await;
    let error = call.await.err();
    if let Some(error) = error {
        assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    }
}

async fn a_call_waits_for_the_connection(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    fixture.probe.echo("before".into()).await.unwrap();
    proxy.down().await;
    let mut state = fixture.calling.state();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    fixture.subject.gate.open_for_good();
    let (probe, other) = (fixture.probe.clone(), fixture.probe.clone());
    let waiting = tokio::spawn(async move { probe.hold(1).timeout(LONG).await });
    let oneway = tokio::spawn(async move { other.note(2).timeout(LONG).await });
    proxy.up().await;
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    oneway.await.unwrap().unwrap();
    fixture.subject.gate.entered(2).await;
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.runs().len(), 2, "each once");
}

async fn a_call_that_cannot_wait_so_long_was_not_sent(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    proxy.down().await;
    let mut state = fixture.calling.state();
    fixture.probe.note(0).timeout(SOON).await.unwrap_err();
    state.wait_for(|state| !state.is_connected()).await.unwrap();
    for error in [
        transport_error(fixture.probe.hold(1).timeout(SHORT)).await,
        transport_error(fixture.probe.hold_idempotent(2).timeout(SHORT)).await,
        transport_error(fixture.probe.note(3).timeout(SHORT)).await,
    ] {
        assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
    }
    proxy.up().await;
    fixture
        .probe
        .echo("back".into())
        .timeout(LONG)
        .await
        .unwrap();
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [0; 0]);
}

async fn a_server_resumes_and_an_idempotent_call_is_answered_once(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let first = fixture.probe.hold_idempotent(1).timeout(LONG);
    let first = first.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let queued = fixture.probe.hold(2).timeout(LONG).send().await.unwrap();
    proxy.cut(Cut::Rst);
    // What can no longer be answered is dropped, and comes again.
    fixture.subject.gate.left(1).await;
    fixture.subject.gate.entered(2).await;
    fixture.subject.gate.open_for_good();
    assert_eq!(first.await.unwrap(), 1);
    assert_eq!(queued.await.unwrap(), 2);
    let runs: Vec<_> = fixture
        .subject
        .runs()
        .iter()
        .map(|run| (run.id, run.facts.redelivered))
        .collect();
    assert_eq!(runs, [(1, false), (1, true), (2, false)]);
    fixture.is_well(&env).await;
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
    let raw = Raw::open(&env.uri).await;
    assert_eq!(
        raw.count(&fixture.queue).await.consumers,
        1,
        "no more, no fewer"
    );
}

/// The call may have run when its server lost the connection. It is not run again, and its caller is told at once.
async fn a_call_of_a_lost_server_is_aborted_and_the_next_is_answered(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let first = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let queued = fixture.probe.hold(2).timeout(LONG).send().await.unwrap();
    proxy.cut(Cut::Rst);
    fixture.subject.gate.left(1).await;
    let error = first.await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Aborted), "{error}");
    assert!(error.may_have_executed(), "{error}");
    assert!(
        error.to_string().contains("`hold` is not idempotent"),
        "{error}"
    );
    fixture.subject.gate.open_for_good();
    assert_eq!(queued.await.unwrap(), 2);
    let runs: Vec<_> = fixture.subject.runs();
    let runs: Vec<_> = runs
        .iter()
        .map(|run| (run.id, run.facts.redelivered))
        .collect();
    assert_eq!(runs, [(1, false), (2, false)]);
    assert_eq!(fixture.serving.stats().not_run_again, 1);
    fixture.is_well(&env).await;
}

/// The reply is on its way, the acknowledgement is not: the request runs again, and the second
/// reply finds nobody.
async fn a_reply_that_was_lost_with_its_server_comes_again(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    fixture.is_well(&env).await;
    let call = fixture
        .probe
        .hold_idempotent(0x7eadbeef)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    // The reply's body passes, and not a byte after it.
    let trap = proxy.stall_after(Way::Up, b"\xce\x7e\xad\xbe\xef\xce");
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 0x7eadbeef);
    trap.sprung().await;
    proxy.cut(Cut::Rst);
    proxy.resume();
    fixture.subject.gate.entered(2).await;
    eventually("the second reply", || async {
        fixture.calling.stats().dropped_replies == 1
    })
    .await;
    fixture.is_well(&env).await;
    let redelivered = fixture
        .subject
        .runs()
        .iter()
        .map(|run| run.facts.redelivered)
        .collect::<Vec<_>>();
    assert_eq!(redelivered, [false, true]);
}

async fn replies_that_stall_time_out(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    fixture.probe.echo("before".into()).await.unwrap();
    proxy.stall(Way::Down);
    let error = fixture
        .probe
        .echo("lost".into())
        .timeout(SHORT)
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
    proxy.resume();
    eventually("it comes late", || async {
        fixture.calling.stats().dropped_replies == 1
    })
    .await;
    fixture.is_well(&env).await;
}

async fn both_ends_are_cut_again_and_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = || env.builder_at(proxy.uri()).backoff(SOON, SHORT);
    let (serving, calling) = (
        builder().open().await.unwrap(),
        builder().open().await.unwrap(),
    );
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let _server = serve_concurrently(&serving, &subject, 10)
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);
    let (mut answered, mut lost) = (0, 0);
    for round in 0..10 {
        let calls = (0..20).map(|n| {
            let probe = probe.clone();
            tokio::spawn(async move {
                let text = format!("{round}-{n}");
                (probe.echo(text.clone()).timeout(LONG).await, text)
            })
        });
        let calls: Vec<_> = calls.collect();
        eventually("something in flight or done", || async {
            calling.stats().pending_calls > 0 || calls.iter().any(|call| call.is_finished())
        })
        .await;
        proxy.cut(if round % 2 == 0 { Cut::Rst } else { Cut::Fin });
        for call in calls {
            match call.await.unwrap() {
                (Ok(reply), text) => {
                    assert_eq!(reply, text);
                    answered += 1;
                }
                (Err(error), _) => {
                    assert!(error.is_disconnected(), "{error}");
                    lost += 1;
                }
            }
        }
    }
    assert_eq!(answered + lost, 200, "every call ends");
    assert_eq!(calling.stats().pending_calls, 0);
    // The first of them may still meet the connection that was cut last.
    eventually("calls as before", || async {
        probe.echo("last".into()).timeout(LONG).await
    })
    .await;
    is_settled(&env, &queue).await;
    let raw = Raw::open(&env.uri).await;
    eventually("one consumer, no orphans", || async {
        raw.count(&queue).await.consumers == 1
    })
    .await;
}

async fn channels_and_deliveries_are_counted(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let builder = || env.builder_at(proxy.uri()).backoff(SOON, SHORT);
    let (serving, calling) = (
        builder().open().await.unwrap(),
        builder().open().await.unwrap(),
    );
    let channels = || (serving.stats().channels, calling.stats().channels);
    assert_eq!(channels(), (0, 0), "none before it is needed");
    let RpcFixture {
        server,
        probe,
        queue,
        ..
    } = RpcFixture::over(&env, serving.clone(), calling.clone()).await;
    probe.echo("hi".into()).timeout(LONG).await.unwrap();
    // One consumes, and one has the questions to this instance; one has the replies, and one the requests.
    let at_rest = || async {
        let now = (channels(), serving.stats().unsettled);
        if now == ((2, 2), 0) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    };
    eventually("at rest", at_rest).await;
    for (round, how) in [(1, Cut::Fin), (2, Cut::Rst)] {
        let call = probe.hold(1).timeout(LONG).send().await.unwrap();
        eventually("a delivery is in hand", || async {
            serving.stats().unsettled == 1
        })
        .await;
        proxy.cut(how);
        let error = call.await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
        // It comes again, to the next session, and is not run again.
        eventually("an answer without a run", || async {
            serving.stats().not_run_again == round
        })
        .await;
        eventually("calls as before", || async {
            probe.echo("hi".into()).timeout(LONG).await
        })
        .await;
        eventually("nothing of the session before is held", at_rest).await;
    }
    is_settled(&env, &queue).await;
    server.stop().await.unwrap();
    calling.close().await;
    eventually("none is left", || async {
        if channels() == (0, 0) {
            Ok(())
        } else {
            Err(format!("{:?}", channels()))
        }
    })
    .await;
}
