//! Streams of numbers that a caller sends.

use futures_util::stream::{self, Stream, StreamExt};
use lepus_tests::eventually;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of numbers for a call, and what became of it.
#[derive(Clone, Default)]
pub(crate) struct Source {
    polled: Arc<AtomicU64>,
    /// The streams that are not dropped.
    open: Arc<AtomicU64>,
}

/// Tells when a stream is dropped.
struct OpenSource(Arc<AtomicU64>);

impl Drop for OpenSource {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source {
    /// The numbers from 0, so many of them. All are ready.
    pub(crate) fn numbers(&self, to: u64) -> impl Stream<Item = u64> + Send + 'static {
        self.open.fetch_add(1, Ordering::SeqCst);
        let (polled, open) = (Arc::clone(&self.polled), OpenSource(Arc::clone(&self.open)));
        stream::iter(0..to).inspect(move |_| {
            // All of it, so that it is dropped with the stream.
            let _ = &open;
            polled.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// So many numbers, and then nothing, without an end.
    pub(crate) fn endless(&self, to: u64) -> impl Stream<Item = u64> + Send + 'static {
        self.numbers(to).chain(stream::pending())
    }

    pub(crate) fn polled(&self) -> u64 {
        self.polled.load(Ordering::SeqCst)
    }

    pub(crate) async fn is_dropped(&self) {
        eventually("the stream is dropped", || async {
            self.open.load(Ordering::SeqCst) == 0
        })
        .await;
    }
}
