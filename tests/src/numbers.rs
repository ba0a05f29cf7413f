//! A service of streams of numbers, for tests in which a process of its own serves or reads them.

use futures_util::stream::{self, Stream, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};

/// Streams that end only when somebody ends them.
#[lepus::service(name = "numbers")]
pub trait Numbers {
    /// One number after the other.
    fn forever(&self) -> impl Stream<Item = u64>;
    /// No item.
    fn quiet(&self) -> impl Stream<Item = u64>;
}

/// The implementation, which counts its open streams.
#[derive(Debug, Default)]
pub struct NumbersSubject {
    open: AtomicU64,
}

struct OpenStream<'a>(&'a NumbersSubject);

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl NumbersSubject {
    /// The number of open streams.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    fn opened(&self) -> OpenStream<'_> {
        self.open.fetch_add(1, Ordering::SeqCst);
        OpenStream(self)
    }
}

impl Numbers for NumbersSubject {
    fn forever(&self) -> impl Stream<Item = u64> {
        let open = self.opened();
        stream::iter(0..).inspect(move |_| {
            // Held, so that it is dropped with the stream.
            let _ = &open;
        })
    }

    fn quiet(&self) -> impl Stream<Item = u64> {
        let open = self.opened();
        stream::pending().inspect(move |_| {
            let _ = &open;
        })
    }
}
