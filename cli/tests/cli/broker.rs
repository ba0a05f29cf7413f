//! `broker`: the embedded broker as a program.

use lepus_tests::process::{Program, Signal};

use crate::lepus::{bare, ended};

#[tokio::test]
async fn it_serves_until_a_signal() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut broker = Program::spawn(bare().args(["broker", "127.0.0.1:0"]));
        let line = broker.line().await;
        let url = line
            .strip_prefix("serving ")
            .expect("an address")
            .to_owned();
        assert!(url.starts_with("amqp://127.0.0.1:"), "{url}");
        let bench = ["bench", "jobs", "--jobs", "10", "-o", "jsonl"];
        ended(bare().env("AMQP_URL", &url).args(bench)).await.ok();

        // Another one on the same address.
        let address = url.strip_prefix("amqp://").expect("a scheme");
        ended(bare().args(["broker", address]))
            .await
            .failed(2, &[address]);
        broker.signal(signal);
        assert!(broker.succeeded().await.is_empty());
    }
}
