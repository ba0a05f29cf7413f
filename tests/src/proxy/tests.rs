//! The proxy against a server that echoes, and against the embedded broker.

use super::*;
use crate::eventually::eventually;
use crate::frames::{BASIC_PUBLISH, blocked, unblocked};
use crate::raw::Raw;
use lepus_broker::Broker;
use std::io::ErrorKind;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MOMENT: Duration = Duration::from_millis(100);

/// A proxy in front of a server that sends back whatever it gets.
async fn echo() -> (Proxy, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!(
        "amqp://user:pass@{}/vhost?heartbeat=1",
        listener.local_addr().unwrap()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let proxy = Proxy::start(&uri).await;
    let uri: AMQPUri = proxy.uri().parse().unwrap();
    let address = format!("{}:{}", uri.authority.host, uri.authority.port);
    (proxy, address)
}

async fn say(stream: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).await.unwrap();
    hear(stream, words.len()).await
}

async fn hear(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut heard = vec![0; length];
    stream.read_exact(&mut heard).await.unwrap();
    heard
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(MOMENT, stream.read(&mut [0; 1]))
        .await
        .is_err()
}

#[tokio::test]
async fn it_forwards_and_keeps_the_rest_of_the_uri() {
    let (proxy, address) = echo().await;
    assert_eq!(
        proxy.uri(),
        format!("amqp://user:pass@{address}/vhost?heartbeat=1")
    );
    let tap = proxy.tap();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    assert_eq!(say(&mut stream, b"hello").await, b"hello");
    assert_eq!(tap.bytes(1, Way::Up), b"hello");
    assert_eq!(tap.bytes(1, Way::Down), b"hello");
    drop(stream);
    eventually("no connection", || async { proxy.open() == 0 }).await;
}

#[tokio::test]
async fn it_refuses_and_comes_back_on_the_same_port() {
    let (proxy, address) = echo().await;
    let mut old = TcpStream::connect(&address).await.unwrap();
    assert_eq!(say(&mut old, b"1").await, b"1");
    for _ in 0..3 {
        proxy.set(Mode::Refuse).await;
        let error = TcpStream::connect(&address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(say(&mut old, b"2").await, b"2", "what was there stays");
        proxy.up().await;
        let mut new = TcpStream::connect(&address).await.unwrap();
        assert_eq!(say(&mut new, b"3").await, b"3");
    }
    proxy.down().await;
    assert_eq!(
        old.read(&mut [0; 1]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn it_accepts_and_closes_or_says_nothing() {
    let (proxy, address) = echo().await;
    proxy.set(Mode::AcceptThenClose).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    proxy.set(Mode::AcceptSilent).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"anybody?").await.unwrap();
    assert!(is_silent(&mut stream).await);
    assert_eq!(proxy.cut(Cut::Rst), 1);
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_cut_is_a_fin_or_a_reset() {
    let (proxy, address) = echo().await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    say(&mut stream, b"x").await;
    assert_eq!(proxy.cut(Cut::Fin), 1);
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap(),
        0,
        "the end of the stream"
    );
    let mut stream = TcpStream::connect(&address).await.unwrap();
    say(&mut stream, b"x").await;
    proxy.cut(Cut::Rst);
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_stall_holds_one_direction_and_loses_nothing() {
    let (proxy, address) = echo().await;
    let tap = proxy.tap();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    say(&mut stream, b"x").await;
    proxy.stall(Way::Down);
    stream.write_all(b"up").await.unwrap();
    eventually("it goes up", || async { tap.bytes(1, Way::Up) == b"xup" }).await;
    assert!(is_silent(&mut stream).await);
    proxy.stall(Way::Up);
    stream.write_all(b"held").await.unwrap();
    assert!(is_silent(&mut stream).await);
    assert_eq!(tap.bytes(1, Way::Up), b"xup");
    proxy.resume();
    assert_eq!(hear(&mut stream, 6).await, b"upheld");
    proxy.stall_both();
    proxy.cut(Cut::Fin);
    assert_eq!(
        stream.read(&mut [0; 1]).await.unwrap(),
        0,
        "a stalled link can be cut"
    );
}

#[tokio::test]
async fn a_slow_network_is_only_slower() {
    let (proxy, address) = echo().await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    proxy.slow(Some(Slow {
        delay: Duration::from_millis(20),
        piece: 1,
    }));
    let began = Instant::now();
    assert_eq!(say(&mut stream, b"12345").await, b"12345");
    // The delay is what is tested: never less, and a slow machine only adds to it.
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    proxy.slow(Some(Slow::latency(Duration::from_millis(30))));
    let began = Instant::now();
    assert_eq!(say(&mut stream, b"12345").await, b"12345");
    assert!(
        began.elapsed() >= Duration::from_millis(60),
        "{:?}",
        began.elapsed()
    );
    proxy.slow(None);
    assert_eq!(say(&mut stream, &[7; 100_000]).await.len(), 100_000);
}

#[tokio::test]
async fn a_trap_stalls_to_the_byte() {
    let (proxy, address) = echo().await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let trap = proxy.stall_after(Way::Up, b"reply");
    stream.write_all(b"the re").await.unwrap();
    hear(&mut stream, 6).await;
    assert!(!trap.is_sprung());
    stream.write_all(b"ply and the ack").await.unwrap();
    trap.sprung().await;
    assert_eq!(hear(&mut stream, 3).await, b"ply");
    assert!(is_silent(&mut stream).await, "what follows waits");
    proxy.resume();
    assert_eq!(hear(&mut stream, 12).await, b" and the ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_carries_amqp_and_slips_frames_in() {
    let broker = Broker::start().await.unwrap();
    let proxy = Proxy::start(&broker.uri()).await;
    let tap = proxy.tap();
    let raw = Raw::open(proxy.uri()).await;
    raw.declare("box").await;
    raw.publish("", "box", b"in").await;
    let published = tap
        .frames(1, Way::Up)
        .iter()
        .filter(|f| f.method() == Some(BASIC_PUBLISH))
        .count();
    assert_eq!(published, 1);

    proxy.inject(&blocked("low on memory"));
    eventually("blocked", || async { raw.connection.status().blocked() }).await;
    proxy.inject(&unblocked());
    eventually("unblocked", || async { !raw.connection.status().blocked() }).await;
    raw.publish("", "box", b"out").await;
    assert_eq!(raw.count("box").await.messages, 2);
}
