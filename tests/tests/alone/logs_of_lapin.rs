//! The log at level TRACE, lapin's with it, in which each frame that lapin sends is shown.

use lepus::Connection;
use lepus_broker::Broker;
use lepus_tests::env::turn;
use lepus_tests::log::Log;

const PASSWORD: &str = "s3cret-carrot";

/// As Rust prints bytes, which is how lapin shows a SASL response.
fn as_bytes(text: &str) -> String {
    let bytes: Vec<_> = text.bytes().map(|byte| byte.to_string()).collect();
    bytes.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_log() {
    let _turn = turn().await;
    let log = Log::capture("trace");
    log.take();
    let broker = Broker::builder().user("hare", PASSWORD).start();
    let broker = broker.await.unwrap();
    for mechanism in ["plain", "amqplain", "rabbit-cr-demo"] {
        let uri = format!("{}?auth_mechanism={mechanism}", broker.uri());
        let opened = Connection::open(&uri).await;
        match opened {
            Ok(connection) => connection.close().await,
            // It is a demonstration, which brokers have switched off.
            Err(error) => assert_eq!(mechanism, "rabbit-cr-demo", "{error}"),
        }
        let everything = log.take();
        assert!(
            everything.contains("StartOk"),
            "lapin is silent:\n{everything}"
        );
        let bytes = as_bytes(PASSWORD);
        for secret in [PASSWORD, &bytes] {
            let line = everything.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{mechanism}");
        }
    }
    Log::capture("off");
}
