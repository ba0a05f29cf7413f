//! A call in this process: the stub, encoding and decoding, without a broker.

use std::sync::Arc;

use bytes::Bytes;

use crate::contenders::lepus::{Echo, EchoClient, Mirror};
use crate::load::Operation;
use crate::task::Task;

/// So that the clock is not what is measured.
const BATCH: u64 = 1000;

pub fn client(task: &Task) -> Operation {
    let (echo, payload) = (EchoClient::local(Mirror), Bytes::from(task.payload()));
    Operation::new(move || {
        let (echo, payload) = (echo.clone(), payload.clone());
        async move {
            for _ in 0..BATCH {
                let reply = echo.echo(payload.clone()).await.expect("a reply");
                assert_eq!(reply.len(), payload.len());
            }
        }
    })
    .weighing(BATCH)
}

pub fn handler(task: &Task) -> Operation {
    let (mirror, payload) = (Arc::new(Mirror), Bytes::from(task.payload()));
    Operation::new(move || {
        let (mirror, payload) = (Arc::clone(&mirror), payload.clone());
        async move {
            for _ in 0..BATCH {
                let reply = std::hint::black_box(&mirror).echo(payload.clone()).await;
                assert_eq!(reply.len(), payload.len());
            }
        }
    })
    .weighing(BATCH)
}
