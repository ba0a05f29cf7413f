//! A client or a server that counts its allocations, as a process of its own: whatever it allocates
//! is on account of its calls, on whichever thread.
//!
//! `counted_peer lepus-server|naive-server URI NAMESPACE` prints `ready` and serves.
//! `counted_peer lepus-client|naive-client URI NAMESPACE` calls it and prints two lines, for 1 and
//! for 64 calls at once: allocations a call in the client, and in the server.
//! `counted_peer local` prints the allocations of a call in this process.

use std::alloc::System;
use std::pin::Pin;

use lepus::{Connection, Server};
use lepus_tests::naive::{self, Caller};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const QUEUE: &str = "counted";
const CONCURRENCY: u16 = 64;
const BATCHES: usize = 8;
const CALLS: usize = 256;
const PAYLOAD: &[u8] = b"sixteen bytes ok";

#[lepus::service(name = "counted", codec = "bytes")]
trait Counted {
    #[rpc(params = "bare", timeout = "20s")]
    async fn echo(&self, payload: Vec<u8>) -> Vec<u8>;
}

struct Mirror;

impl Counted for Mirror {
    async fn echo(&self, payload: Vec<u8>) -> Vec<u8> {
        echo(payload)
    }
}

/// Gives an empty payload's sender the number of allocations up to now.
fn echo(payload: Vec<u8>) -> Vec<u8> {
    if payload.is_empty() {
        return allocated().to_be_bytes().into();
    }
    payload
}

fn allocated() -> u64 {
    let stats = COUNTED.stats();
    (stats.allocations + stats.reallocations) as u64
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["local"] => local().await,
        ["lepus-server", uri, namespace] => {
            let connection = connect(uri, namespace).await;
            let server =
                Server::new(&connection).serve(CountedServer::new(Mirror).concurrency(CONCURRENCY));
            let _running = server.start().await.expect("a server");
            println!("ready");
            std::future::pending().await
        }
        ["naive-server", uri, namespace] => {
            naive::serve(uri, &format!("{namespace}.{QUEUE}"), CONCURRENCY, echo).await;
            println!("ready");
            std::future::pending().await
        }
        ["lepus-client", uri, namespace] => {
            let client = CountedClient::new(&connect(uri, namespace).await);
            count(move |payload| {
                let call = client.echo(payload);
                Box::pin(async move { call.await.expect("a reply") })
            })
            .await;
        }
        ["naive-client", uri, namespace] => {
            let caller = Caller::open(uri, &format!("{namespace}.{QUEUE}")).await;
            count(move |payload| {
                let caller = caller.clone();
                Box::pin(async move { caller.call(&payload).await })
            })
            .await;
        }
        _ => panic!("counted_peer SIDE [URI NAMESPACE]"),
    }
}

async fn connect(uri: &str, namespace: &str) -> Connection {
    let builder = Connection::builder(uri).namespace(namespace);
    builder.open().await.expect("a connection")
}

type Reply = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// The least of several batches: what is done now and then, by a clock, is no part of a call.
async fn count(call: impl Fn(Vec<u8>) -> Reply) {
    for at_once in [1, 64] {
        let mut least = [f64::INFINITY; 2];
        for _ in 0..BATCHES {
            let theirs = remote(&call).await;
            let ours = allocated();
            batch(&call, at_once).await;
            let ours = allocated() - ours;
            let theirs = remote(&call).await - theirs;
            for (least, count) in least.iter_mut().zip([ours, theirs]) {
                *least = least.min(count as f64 / CALLS as f64);
            }
        }
        println!("{:.2} {:.2}", least[0], least[1]);
    }
}

async fn remote(call: &impl Fn(Vec<u8>) -> Reply) -> u64 {
    let count = call(Vec::new()).await;
    u64::from_be_bytes(count.try_into().expect("a number"))
}

async fn batch(call: &impl Fn(Vec<u8>) -> Reply, at_once: usize) {
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        if calls.len() == at_once {
            calls.join_next().await;
        }
        calls.spawn(call(PAYLOAD.to_vec()));
    }
    for reply in calls.join_all().await {
        assert_eq!(reply, PAYLOAD);
    }
}

async fn local() {
    let client = CountedClient::local(Mirror);
    let before = allocated();
    for _ in 0..CALLS {
        let reply = client.echo(PAYLOAD.to_vec()).await;
        assert_eq!(reply.expect("a reply"), PAYLOAD);
    }
    let count = allocated() - before;
    println!("{:.2}", count as f64 / CALLS as f64);
}
