//! The allocations of a call, client and server each in a process of its own, against a budget: time
//! cannot be tested on a busy machine, this can.
//!
//! The memory of a stream is counted in the same way.
//!
//! If a budget is exceeded for a reason, raise it to what is printed and a tenth more. If much
//! of it is left, lower it.

use lepus_broker::Broker;
use lepus_tests::process::Program;
use tokio::process::Command;

/// Allocations a call of 16 bytes, the payload's own and the caller's task included.
struct Budget {
    client: f64,
    server: f64,
}

const ONE_AT_A_TIME: Budget = Budget {
    client: 22.0,
    server: 18.0,
};
const SIXTY_FOUR_AT_ONCE: Budget = Budget {
    client: 22.0,
    server: 18.0,
};
const IN_PROCESS: f64 = 12.0;
/// Of both sides together, to those of a call by hand.
const TO_BY_HAND: f64 = 0.45;

fn peer(arguments: &[&str]) -> Program {
    Program::spawn(Command::new(env!("CARGO_BIN_EXE_counted_peer")).args(arguments))
}

/// Client and server, for one call at a time and for many.
async fn counted(who: &str) -> [[f64; 2]; 2] {
    let broker = Broker::start().await.expect("a broker");
    let uri = broker.uri();
    let mut server = peer(&[&format!("{who}-server"), &uri, "budget"]);
    assert_eq!(server.line().await, "ready");
    let mut client = peer(&[&format!("{who}-client"), &uri, "budget"]);
    let counts = [client.line().await, client.line().await];
    let counts = counts.map(|line| {
        let (client, server) = line.split_once(' ').expect("two numbers");
        [client, server].map(|count| count.parse().expect("a number"))
    });
    println!("{who}, one at a time and 64 at once, client and server: {counts:?}");
    client.succeeded().await;
    counts
}

fn within(counts: [f64; 2], budget: &Budget) {
    let [client, server] = counts;
    assert!(
        client <= budget.client,
        "client: {client} > {}",
        budget.client
    );
    assert!(
        server <= budget.server,
        "server: {server} > {}",
        budget.server
    );
}

#[tokio::test]
async fn a_call_stays_within_its_budget() {
    let [single, many] = counted("lepus").await;
    within(single, &ONE_AT_A_TIME);
    within(many, &SIXTY_FOUR_AT_ONCE);
}

#[tokio::test]
async fn a_call_in_process_stays_within_its_budget() {
    let mut local = peer(&["local"]);
    let count: f64 = local.line().await.parse().expect("a number");
    println!("in process: {count}");
    assert!(count <= IN_PROCESS, "{count} > {IN_PROCESS}");
}

/// Most of what a call by hand takes is lapin's own, and Lepus does without; for its deadlines, returns,
/// types and its bound on calls in flight it takes little.
#[tokio::test]
async fn a_call_allocates_half_of_one_by_hand() {
    let (ours, by_hand) = (counted("lepus").await, counted("naive").await);
    for (ours, by_hand) in ours.into_iter().zip(by_hand) {
        let [ours, by_hand] = [ours, by_hand].map(|counts| counts.iter().sum::<f64>());
        let most = by_hand * TO_BY_HAND;
        assert!(ours <= most, "{ours} > {most}");
    }
}

/// The bytes that both ends of a stream hold, those of the caller and those of the server, when a window of items of this
/// size was sent and nobody reads them. No further item is made.
async fn held(side: &str, window: u64, size: u64) -> [u64; 2] {
    let broker = Broker::start().await.expect("a broker");
    let uri = broker.uri();
    let held_peer = |arguments: &[&str]| {
        Program::spawn(Command::new(env!("CARGO_BIN_EXE_held_peer")).args(arguments))
    };
    let mut server = held_peer(&["server", &uri, "held"]);
    assert_eq!(server.line().await, "ready");
    let arguments = [window.to_string(), size.to_string()];
    let mut caller = held_peer(&[side, &uri, "held", &arguments[0], &arguments[1]]);
    let line = caller.line().await;
    let numbers = line.split(' ').map(|number| number.parse::<u64>());
    let numbers: Result<Vec<_>, _> = numbers.collect();
    let [ours, theirs, made] = numbers.expect("numbers")[..] else {
        panic!("three numbers: {line}");
    };
    println!("{side}, {window} items of {size} bytes, caller and server: {ours}, {theirs}");
    assert_eq!(made, window);
    [ours, theirs]
}

/// A quarter more than the items, for the messages that they come in, and what a stream takes besides. The sender has sent
/// its items, and keeps the buffer that they went through.
fn most(window: u64, size: u64) -> u64 {
    window * size * 5 / 4 + 64 * 1024
}

#[tokio::test]
async fn a_reader_that_sleeps_holds_a_window_of_items() {
    for (window, size) in [(64, 16_384), (1024, 1024), (16, 65_536)] {
        let most = most(window, size);
        for held in held("reader", window, size).await {
            assert!(held <= most, "{held} > {most}");
        }
    }
}

#[tokio::test]
async fn a_method_that_sleeps_holds_a_window_of_items() {
    // Every upload has this window.
    let window = 32;
    for size in [1024, 16_384, 65_536] {
        let most = most(window, size);
        for held in held("uploader", window, size).await {
            assert!(held <= most, "{held} > {most}");
        }
    }
}
