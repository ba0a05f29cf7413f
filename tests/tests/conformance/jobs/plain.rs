//! Queues of plain text and bytes, as programs in any language use them, and jobs that are taken
//! one at a time.

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lepus::{Job, WorkQueue};
use lepus_tests::jobs::{JobFixture, KINDS, next, queue};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance, eventually};
use tokio::sync::mpsc;

conformance!(
    text_goes_both_ways_without_ceremony,
    bytes_go_both_ways_without_ceremony,
    a_job_taken_is_done_or_given_back,
    a_job_taken_may_be_rejected,
    what_cannot_be_read_can_still_be_taken,
    a_lost_connection_costs_one_look,
);

async fn text_goes_both_ways_without_ceremony(env: Env) {
    let fixture = JobFixture::open(env).await;
    let hello = fixture.full("hello");
    let queue = WorkQueue::text("hello").transient();
    // As the tutorial's `send.py`: a queue that is not durable, a body and nothing else.
    let transient = QueueDeclareOptions::default();
    fixture
        .raw
        .declare_with(&hello, transient, &[])
        .await
        .unwrap();
    fixture.raw.publish("", &hello, "Hällo".as_bytes()).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<String>| {
        tell.send((job.message_id().map(str::to_owned), job.into_payload()))
            .unwrap();
        async {}
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    assert_eq!(next(&mut told).await, (None, "Hällo".to_owned()));
    running.stop().await.unwrap();
    let producer = queue.producer(&fixture.connection);
    producer.push(&"Hello Wörld!".to_owned()).await.unwrap();
    let message = fixture.raw.next(&hello).await;
    assert_eq!(message.data, "Hello Wörld!".as_bytes());
    let content_type = message.properties.content_type().as_ref().unwrap();
    assert_eq!(content_type.as_str(), "text/plain");
    assert_eq!(message.properties.headers().as_ref(), None, "no table");
    fixture.delete_queues(&["hello"]).await;
}

async fn bytes_go_both_ways_without_ceremony(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::bytes("blobs");
    let producer = queue.producer(&fixture.connection);
    for blob in [vec![], vec![0, 255, 10], vec![7; 1 << 20]] {
        producer.push(&blob).await.unwrap();
        assert_eq!(fixture.raw.next(&fixture.full("blobs")).await.data, blob);
        fixture.raw.publish("", &fixture.full("blobs"), &blob).await;
        let taken = queue.getter(&fixture.connection).next().await.unwrap();
        assert_eq!(taken.expect("a job").ack().unwrap(), blob);
    }
    fixture.delete_queues(&["blobs"]).await;
}

async fn a_job_taken_is_done_or_given_back(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        let getter = queue.getter(&fixture.connection);
        assert!(getter.next().await.unwrap().is_none(), "it is empty");
        let push = queue.producer(&fixture.connection).push(&7);
        push.message_id("m").header("x", 1).await.unwrap();
        let full = fixture.full(name);
        for redelivered in [false, true, true] {
            let taken = eventually("a job", || async { getter.next().await.unwrap() }).await;
            assert_eq!(taken.payload().unwrap(), &7);
            assert_eq!(taken.message_id(), Some("m"));
            assert_eq!(taken.headers().len(), 1, "{:?}", taken.headers());
            assert_eq!(taken.redelivered(), redelivered);
            assert_eq!((taken.exchange(), taken.key()), ("", &*full));
            assert_eq!(taken.bytes(), [7]);
            assert!(taken.timestamp().is_some() && taken.app_id().is_none());
            assert!(getter.next().await.unwrap().is_none(), "it is taken");
            if redelivered {
                taken.requeue();
            } else {
                drop(taken);
            }
            fixture.raw.until_messages(&full, 1).await;
        }
        let taken = getter.next().await.unwrap().expect("a job");
        assert_eq!(taken.ack().unwrap(), 7);
        // What is not settled goes back with the channel.
        drop(getter);
        let other = queue.getter(&fixture.connection);
        assert!(other.next().await.unwrap().is_none());
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_job_taken_may_be_rejected(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.producer(&fixture.connection).push(&7).await.unwrap();
    let taken = queue.getter(&fixture.connection).next().await.unwrap();
    taken.expect("a job").reject();
    let letters = queue.dead_letters(&fixture.connection);
    eventually("a dead letter", || async {
        letters.count().await.unwrap() == 1
    })
    .await;
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    assert_eq!(letter.reason(), "rejected");
    fixture.delete_queues(&["jobs"]).await;
}

async fn what_cannot_be_read_can_still_be_taken(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let getter = queue.getter(&fixture.connection);
    assert!(getter.next().await.unwrap().is_none());
    let xml = BasicProperties::default().with_content_type("application/xml".into());
    let jobs = fixture.full("jobs");
    let sent = fixture.raw.publish_with("", &jobs, b"<x/>", xml).await;
    sent.unwrap();
    let taken = getter.next().await.unwrap().expect("a job");
    assert!(taken.payload().unwrap_err().is_decode());
    assert_eq!(taken.bytes(), b"<x/>");
    assert!(taken.ack().unwrap_err().is_decode());
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_lost_connection_costs_one_look(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.producer(&fixture.connection).push(&7).await.unwrap();
    let getter = queue.getter(&connection);
    let taken = getter.next().await.unwrap().expect("a job");
    proxy.cut(Cut::Rst);
    fixture.raw.until_messages(&fixture.full("jobs"), 1).await;
    // Too late: it has gone back, and is taken again.
    assert_eq!(taken.ack().unwrap(), 7);
    let taken = eventually("a job", || async {
        match getter.next().await {
            Ok(taken) => taken,
            Err(error) => {
                assert!(error.is_disconnected(), "{error:?}");
                None
            }
        }
    })
    .await;
    assert!(taken.redelivered());
    assert_eq!(taken.ack().unwrap(), 7);
    drop(getter);
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}
