//! A private RabbitMQ node: restarts, alarms, permissions, TLS.

use async_rs::TokioRuntime;
use lapin::options::BasicPublishOptions;
use lapin::tcp::OwnedTLSConfig;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use lepus_tests::deadline::within;
use lepus_tests::eventually;
use lepus_tests::node::{self, Node, Tls};
use lepus_tests::raw::Raw;
use std::path::Path;
use std::time::Duration;

/// A node takes some seconds to start, and a minute on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_kill_and_restart() {
    if !node::are_available("what_was_confirmed_survives_kill_and_restart") {
        return;
    }
    within(
        "what_was_confirmed_survives_kill_and_restart",
        LIMIT,
        async {
            let node = Node::start().await;
            let raw = Raw::open(node.uri()).await;
            raw.declare("jobs").await;
            // RabbitMQ 3.10 answers a declaration before the queue's record is on the disk, and confirms messages of
            // a queue that a kill then loses. What an orderly stop has written down stays.
            node.restart().await;

            let raw = Raw::open(node.uri()).await;
            let persistent = BasicProperties::default().with_delivery_mode(2);
            for job in [b"1", b"2"] {
                raw.publish_with("", "jobs", job, persistent.clone())
                    .await
                    .expect("a confirm");
            }
            let first = node.pid().expect("a pid");
            node.kill().await;
            assert!(
                !Path::new(&format!("/proc/{first}/exe")).exists(),
                "it is gone"
            );
            eventually("the loss is seen", || async {
                !raw.connection.status().connected()
            })
            .await;
            Raw::try_open(node.uri()).await.expect_err("nobody listens");

            node.start_again().await;
            assert_ne!(node.pid(), Some(first));
            let raw = Raw::open(node.uri()).await;
            raw.until_messages("jobs", 2).await;
            assert_eq!(raw.next("jobs").await.data, b"1");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_permissions_and_tls_are_at_hand() {
    if !node::are_available("alarms_permissions_and_tls_are_at_hand") {
        return;
    }
    within("alarms_permissions_and_tls_are_at_hand", LIMIT, async {
        let tls = certificates();
        let authority = tls.authority.clone();
        let node = Node::setup()
            .tls(tls)
            .config("channel_max = 7")
            .start()
            .await;

        let raw = Raw::open(node.uri()).await;
        raw.declare("box").await;
        node.ctl(&["set_vm_memory_high_watermark", "0.00000001"])
            .await;
        // A node tells only those who publish.
        let options = BasicPublishOptions::default();
        let published = raw.channel.basic_publish(
            "".into(),
            "box".into(),
            options,
            b"x",
            BasicProperties::default(),
        );
        let confirm = published.await.expect("written");
        eventually("the alarm", || async { raw.connection.status().blocked() }).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
        eventually("its end", || async { !raw.connection.status().blocked() }).await;
        confirm.await.expect("a confirm");

        node.ctl(&["change_password", "guest", "other"]).await;
        Raw::try_open(node.uri())
            .await
            .expect_err("the password has changed");
        node.ctl(&["change_password", "guest", "guest"]).await;

        let connect = |config| {
            let runtime = TokioRuntime::tokio().expect("a runtime");
            let properties = ConnectionProperties::default();
            let uri = node.tls_uri();
            async move { Connection::connect_with_config(&uri, properties, config, runtime).await }
        };
        connect(OwnedTLSConfig::default())
            .await
            .expect_err("an authority nobody knows");
        let trusted = OwnedTLSConfig {
            cert_chain: Some(authority),
            ..Default::default()
        };
        let connection = connect(trusted).await.expect("the node's own authority");
        assert_eq!(connection.configuration().channel_max(), 7);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_make_a_cluster() {
    if !node::are_available("two_nodes_make_a_cluster") {
        return;
    }
    within("two_nodes_make_a_cluster", LIMIT, async {
        let first = Node::start().await;
        let second = Node::setup().beside(&first).start().await;
        second.ctl(&["stop_app"]).await;
        second.ctl(&["join_cluster", &first.name()]).await;
        second.ctl(&["start_app"]).await;
        Raw::open(first.uri()).await.declare("shared").await;
        eventually("the other one has the queue", || async {
            Raw::open(second.uri()).await.exists("shared").await
        })
        .await;
        drop(second);
    })
    .await;
}

fn certificates() -> Tls {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer_certificate = authority.self_signed(&key).expect("an authority");
    let issuer = rcgen::Issuer::new(authority, key);
    let server_key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let server = rcgen::CertificateParams::new(names).expect("parameters");
    let certificate = server
        .signed_by(&server_key, &issuer)
        .expect("a certificate");
    Tls {
        authority: issuer_certificate.pem(),
        certificate: certificate.pem(),
        key: server_key.serialize_pem(),
    }
}
