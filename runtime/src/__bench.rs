//! Functions for the micro-benchmarks: one whole step of each internal module. Behind the feature `__bench`,
//! and not part of the API.

use std::hint::black_box;
use std::time::Duration;

use crate::policy::acks::Acks;
use crate::policy::in_flight::InFlightTable;
use crate::policy::retry::RetryPolicy;
use crate::policy::settle;
use crate::policy::verdict::IntoVerdict;
use crate::wire::envelope::{ReplyForm, ReplyHead, ReplyStatus, RequestHead};
use crate::wire::value::Table;

/// Encodes and decodes the head of a request.
pub fn request_head() {
    let head = RequestHead {
        method: Some("echo".into()),
        reply_to: Some("lepus.replies.0b9f6a3e".into()),
        correlation_id: Some(b"4711".to_vec()),
        content_type: Some("application/msgpack".into()),
        time_left: Some(Duration::from_secs(10)),
        ..RequestHead::default()
    };
    let properties = black_box(head.into_properties());
    black_box(RequestHead::from_properties(properties));
}

/// Encodes and decodes the head of a reply.
pub fn reply_head() {
    let head = ReplyHead {
        status: ReplyStatus::Success,
        form: ReplyForm::AcceptsBatches,
        correlation_id: Some(b"4711".to_vec()),
        content_type: Some("application/msgpack".into()),
        server: Some("bench".into()),
        headers: Table::new(),
    };
    let properties = black_box(head.into_properties());
    black_box(ReplyHead::from_properties(properties));
}

/// Adds and removes a call while `waiting` others are in flight.
pub fn pending(waiting: usize) -> impl FnMut() {
    let mut calls = InFlightTable::default();
    for call in 0..waiting {
        calls.insert(call);
    }
    move || {
        let id = calls.insert(black_box(0));
        black_box(calls.remove(id));
    }
}

/// Acknowledges `deliveries` deliveries that were done in ascending or descending order.
pub fn acks(deliveries: u64, newest_first: bool) -> impl FnMut() {
    let (mut acks, mut next) = (Acks::default(), 1);
    move || {
        let tags = next..next + deliveries;
        next = tags.end;
        if newest_first {
            tags.rev().for_each(|tag| acks.done(tag));
        } else {
            tags.for_each(|tag| acks.done(tag));
        }
        black_box(acks.flush());
    }
}

/// The decisions on a job that is done, and on one that failed.
pub fn settlement() {
    let policy = black_box(RetryPolicy::default());
    black_box(settle::after(().into_verdict(), 1, &policy, 0.5));
    let failed = Err::<(), _>("busy").into_verdict();
    black_box(settle::after(failed, 1, &policy, 0.5));
}
