//! Frames that other clients send and Lepus does not, against both brokers: the embedded one
//! answers as RabbitMQ does.

mod content;
mod declarations;
mod deliveries;
mod frames;
mod names;
mod transactions;

use lapin::types::AMQPValue;
use lepus_tests::Env;
use lepus_tests::socket::{Answer, Socket, short};

const PASSIVE: u8 = 1;
const DURABLE: u8 = 2;
const EXCLUSIVE: u8 = 4;

/// `auto_delete` and `internal` of an exchange.
const X_AUTO_DELETE: u8 = 4;
const DECLARE_OK: (u16, u16) = (50, 11);
const GET_OK: (u16, u16) = (60, 71);
const GET_EMPTY: (u16, u16) = (60, 72);
const ACK: (u16, u16) = (60, 80);

fn word(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", word("quorum"))
}

/// A table without an entry.
fn nothing() -> &'static [u8] {
    &[0; 4]
}

fn is(answer: &Answer, method: (u16, u16)) -> bool {
    matches!(answer, Answer::Method(found, _) if *found == method)
}

async fn socket(env: &Env) -> Socket {
    Socket::open(&env.uri, 131_072).await
}

/// A queue that ends with its connection.
async fn exclusive(socket: &mut Socket, name: &str) {
    let declared = socket.declare(name.as_bytes(), EXCLUSIVE, nothing()).await;
    assert!(is(&declared, DECLARE_OK), "{declared:?}");
}

/// An entry of a table, whatever it is.
fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    [short(key), value.to_vec()].concat()
}
