//! Work queues on a RabbitMQ of their own: what waits for another attempt outlives the broker, and
//! what a full queue refuses is offered again.

use lepus::{Connection, Job, amqp::QueueKind, retry_after};
use lepus_tests::deadline;
use lepus_tests::eventually::within;
use lepus_tests::jobs::{KINDS, meet_a_full_queue, queue};
use lepus_tests::node::{self, Node};
use lepus_tests::raw::Raw;
use std::time::Duration;
use tokio::sync::mpsc;

/// For a node that starts twice on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// Longer than it takes to look into the queues and kill the node, on a busy machine.
const DELAY: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_the_broker_and_what_is_refused_comes_again() {
    let name = "what_waits_outlives_the_broker_and_what_is_refused_comes_again";
    if !node::are_available(name) {
        return;
    }
    deadline::within(name, LIMIT, async {
        let node = Node::start().await;
        // Three minutes, unless it is told.
        let confirm_timeout =
            "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 500).";
        node.ctl(&["eval", confirm_timeout]).await;
        refused(&node).await;
        waiting(&node).await;
    })
    .await;
}

async fn connect(node: &Node) -> Connection {
    Connection::builder(node.uri())
        .namespace("jobs")
        .open()
        .await
        .expect("a connection")
}

async fn refused(node: &Node) {
    let (connection, raw) = (connect(node).await, Raw::open(node.uri()).await);
    // A quorum queue takes some more than its limit.
    meet_a_full_queue(&connection, &raw, "jobs", "full", QueueKind::Classic).await;
    connection.close().await;
}

async fn waiting(node: &Node) {
    let connection = connect(node).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut pools = Vec::new();
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        // The delay queue, before the node is asked to write down what there is.
        let push = queue.producer(&connection).push(&0).delay(SHORT);
        push.await.expect("a stored job");
        let handler = {
            let tell = tell.clone();
            move |job: Job<u32>| {
                let seen = (name, *job.payload(), job.attempt());
                tell.send(seen).expect("the test listens");
                async move {
                    match seen {
                        (_, 2, 1) => Err(retry_after(DELAY, "later")),
                        _ => Ok(()),
                    }
                }
            }
        };
        pools.push(
            queue
                .worker(&connection)
                .start(handler)
                .await
                .expect("a pool"),
        );
        assert_eq!(told.recv().await, Some((name, 0, 1)));
        let push = queue.producer(&connection).push(&1).delay(DELAY);
        push.await.expect("a stored job");
    }
    // RabbitMQ 3.10 writes the list of its quorum queues down when it stops.
    node.restart().await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let push = queue::<u32>(name, kind).producer(&connection).push(&2);
        push.await.expect("a stored job");
    }
    let mut seen = Vec::new();
    while seen.iter().filter(|(_, job, _)| *job == 2).count() < 2 {
        seen.push(told.recv().await.expect("a job"));
    }
    // What is killed before it is settled comes again, and counts as another attempt.
    within("they wait for their second attempt", LIMIT, || async {
        let queues = node.ctl(&["list_queues", "name", "messages"]).await;
        let empty = ["jobs.quorum\t0", "jobs.classic\t0"];
        if empty
            .iter()
            .all(|line| queues.lines().any(|is| is == *line))
        {
            Ok(())
        } else {
            Err(queues)
        }
    })
    .await;
    node.kill().await;
    // RabbitMQ writes acknowledgements down a little later: what ran by now may come again.
    while let Ok(run) = told.try_recv() {
        seen.push(run);
    }
    let early = seen.clone();
    let what = |run: &(&'static str, u32, u32)| (run.0, run.1, run.1 == 2 && run.2 > 1);
    node.start_again().await;
    while seen.len() < 6 {
        let run = told.recv().await.expect("a job");
        if !early.iter().any(|one| what(one) == what(&run)) {
            seen.push(run);
        }
    }
    seen.sort_unstable();
    let runs: Vec<_> = seen.iter().map(|(name, job, _)| (*name, *job)).collect();
    let expected = ["classic", "quorum"].map(|name| [(name, 1), (name, 2), (name, 2)]);
    assert_eq!(runs, expected.concat(), "{seen:?}");
    for run in [seen[..3].to_vec(), seen[3..].to_vec()] {
        let [first, failed, again] = [run[0].2, run[1].2, run[2].2];
        // After a kill RabbitMQ 4.3 marks what a classic queue had as delivered before, and it
        // counts as an attempt.
        let most = u32::from(run[0].0 == "classic");
        assert!((1..=1 + most).contains(&first), "{seen:?}");
        assert_eq!(failed, 1, "{seen:?}");
        assert!((2..=2 + most).contains(&again), "{seen:?}");
    }
    for pool in pools {
        pool.stop().await.expect("a drained pool");
    }
}
