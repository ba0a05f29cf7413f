//! The example with probes, over a broker that goes away, blocks and refuses.

use lepus_broker::{Accept, Broker, Cut, Target};
use lepus_tests::eventually;
use lepus_tests::process::{Program, Signal, example};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Probed {
    program: Program,
    address: String,
}

impl Probed {
    async fn start(broker: &Broker) -> Probed {
        let mut command = example("health");
        let command = command.arg("127.0.0.1:0").env("AMQP_URL", broker.uri());
        let mut program = Program::spawn(command);
        let line = program.line_with("Probes on").await;
        let address = line.rsplit(' ').next().expect("an address").to_owned();
        Probed { program, address }
    }

    /// The status and the body.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    /// The body of a probe, once it has this status.
    async fn until(&self, path: &str, status: u16) -> String {
        eventually(&format!("{path} is {status}"), || async {
            match self.get(path).await {
                (other, body) if other == status => Ok(body),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await
    }
}

#[tokio::test]
async fn probes_follow_the_broker() {
    let broker = Broker::start().await.expect("a broker");
    let faults = broker.faults();
    let probed = Probed::start(&broker).await;
    // Before the server has started, nothing is served that could be waited for.
    eventually("it serves", || async {
        let queue = broker.queue("rpc_queue");
        queue.is_some_and(|queue| queue.consumers == 1)
    })
    .await;
    assert_eq!(probed.until("/ready", 200).await, "well\n");
    assert_eq!(probed.get("/live").await, (200, "well\n".to_owned()));
    assert_eq!(probed.get("/").await.0, 404);

    // It blocks: a reason, and no failure of what consumes.
    assert!(faults.block(Target::All, "low on disk") > 0);
    let body = eventually("the alarm is told", || async {
        let (status, body) = probed.get("/ready").await;
        assert_eq!(status, 200, "{body}");
        body.contains("low on disk").then_some(body)
    })
    .await;
    assert_eq!(body, "well\nthe broker takes no messages: low on disk\n");
    faults.unblock(Target::All);

    // It goes away, and refuses for a while.
    faults.accept(Accept::Refuse);
    assert!(faults.cut(Target::All, Cut::Rst) > 0);
    let body = probed.until("/ready", 503).await;
    assert!(body.starts_with("not well\n"), "{body}");
    eventually("the queue is told", || async {
        let (_, body) = probed.get("/ready").await;
        body.contains("queue `rpc_queue` is waiting")
            .then_some(())
            .ok_or(body)
    })
    .await;
    let (status, body) = probed.get("/live").await;
    assert_eq!(status, 200, "{body}");

    // It is back.
    faults.accept(Accept::Serve);
    probed.until("/ready", 200).await;
    probed.program.signal(Signal::TERM);
    probed.program.succeeded().await;
}

#[tokio::test]
async fn probes_are_answered_before_the_broker_is_there() {
    let broker = Broker::start().await.expect("a broker");
    broker.faults().accept(Accept::Refuse);
    let probed = Probed::start(&broker).await;
    probed.until("/ready", 503).await;
    assert_eq!(probed.get("/live").await.0, 200);
    broker.faults().accept(Accept::Serve);
    assert_eq!(probed.until("/ready", 200).await, "well\n");
    probed.program.signal(Signal::TERM);
    probed.program.succeeded().await;
}
