//! What the micro-benchmarks reach: one whole step of each inner room, not the rooms themselves.
//! Behind the feature `__bench`, and no part of the API.

use std::hint::black_box;
use std::time::Duration;

use crate::policy::acks::Acks;
use crate::policy::in_flight::InFlightTable;
use crate::policy::retry::RetryPolicy;
use crate::policy::settle;
use crate::policy::verdict::IntoVerdict;
use crate::wire::envelope::{ReplyForm, ReplyHead, ReplyStatus, RequestHead};

/// The head of a plain request, written and read.
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

/// The head of a plain reply, written and read.
pub fn reply_head() {
    let head = ReplyHead {
        status: ReplyStatus::Success,
        form: ReplyForm::AcceptsBatches,
        correlation_id: Some(b"4711".to_vec()),
        content_type: Some("application/msgpack".into()),
        server: Some("bench".into()),
    };
    let properties = black_box(head.into_properties());
    black_box(ReplyHead::from_properties(properties));
}

/// A call that comes and goes while so many others wait.
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

/// So many more deliveries done, each run of them acknowledged; the newest first or last.
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

/// What becomes of a job that is done, and of one that failed.
pub fn settlement() {
    let policy = black_box(RetryPolicy::default());
    black_box(settle::after(().into_verdict(), 1, &policy, 0.5));
    let failed = Err::<(), _>("busy").into_verdict();
    black_box(settle::after(failed, 1, &policy, 0.5));
}
