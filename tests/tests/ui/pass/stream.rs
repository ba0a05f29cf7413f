//! Methods that return a stream, as they may be written.

use futures_util::stream::{self, Stream};
use lepus::rpc::StreamCall;

type CountResult<T> = Result<T, String>;

#[lepus::service]
trait Counter {
    fn numbers(&self, to: u64) -> impl Stream<Item = u64>;
    fn bounded(&self) -> impl Stream<Item = u64> + Send + Unpin;
    fn by_path(&self) -> impl lepus::rpc::Stream<Item = Result<u64, lepus::Status>>;
    fn alias(&self) -> impl Stream<Item = CountResult<u64>>;
    fn bytes(&self) -> impl Stream<Item = Vec<u8>>;
    fn results_of_bytes(&self) -> impl Stream<Item = Result<Vec<u8>, String>>;
    #[rpc(name = "named", timeout = "2s", require_consumer, queue = "other", params = "bare")]
    fn with_options(&self, to: u64) -> impl Stream<Item = u64>;
    /// With a default.
    fn none(&self) -> impl Stream<Item = u64> {
        stream::empty()
    }
}

struct Numbers(Vec<u64>);

impl Counter for Numbers {
    fn numbers(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(self.0.iter().copied().take(to as usize))
    }
    fn bounded(&self) -> impl Stream<Item = u64> + Send + Unpin {
        stream::iter([1])
    }
    fn by_path(&self) -> impl lepus::rpc::Stream<Item = Result<u64, lepus::Status>> {
        stream::iter([Ok(1)])
    }
    fn alias(&self) -> impl Stream<Item = CountResult<u64>> {
        stream::iter([Err("gone".to_owned())])
    }
    fn bytes(&self) -> impl Stream<Item = Vec<u8>> {
        stream::iter([vec![1]])
    }
    fn results_of_bytes(&self) -> impl Stream<Item = Result<Vec<u8>, String>> {
        stream::iter([Ok(vec![1])])
    }
    fn with_options(&self, to: u64) -> impl Stream<Item = u64> {
        self.numbers(to)
    }
}

fn main() {
    let counter = CounterClient::local(Numbers(vec![1]));
    let _: StreamCall<u64> = counter.numbers(1).window(8);
    let _: StreamCall<u64, String> = counter.alias();
    let _: StreamCall<u64> = counter.by_path();
    let _: StreamCall<Vec<u8>, String> = counter.results_of_bytes();
    assert!(CounterClient::DESCRIPTOR.methods()[0].is_stream());
}
