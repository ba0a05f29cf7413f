//! Methods that take a stream, as they may be written.

use futures_util::stream::{self, Stream, StreamExt};
use lepus::Incoming;
use lepus::rpc::{StreamCall, UploadCall};

type AddResult<T> = Result<T, String>;

#[lepus::service]
trait Adder {
    async fn sum(&self, numbers: Incoming<u64>) -> u64;
    async fn beside(&self, from: u64, numbers: lepus::Incoming<u64>, to: Option<u64>) -> u64;
    async fn nothing(&self, numbers: lepus::rpc::Incoming<u64>);
    async fn result(&self, numbers: Incoming<u64>) -> Result<u64, String>;
    async fn status(&self, numbers: Incoming<u64>) -> Result<u64, lepus::Status>;
    async fn alias(&self, numbers: Incoming<u64>) -> AddResult<u64>;
    async fn bytes(&self, parts: Incoming<Vec<u8>>) -> Vec<u8>;
    async fn results(&self, numbers: Incoming<Result<u64, String>>) -> u64;
    #[rpc(name = "named", timeout = "2s", require_consumer, queue = "other", params = "bare", cancel = true)]
    async fn with_options(&self, from: u64, numbers: Incoming<u64>) -> u64;
    #[rpc(strict)]
    fn both(&self, numbers: Incoming<u64>) -> impl Stream<Item = u64>;
    fn both_with_errors(&self, numbers: Incoming<u64>) -> impl Stream<Item = Result<u64, String>>;
    /// With a default.
    async fn none(&self, numbers: Incoming<u64>) -> u64 {
        drop(numbers);
        0
    }
}

/// A trait that is used as `dyn`.
#[lepus::service(dyn)]
trait Dynamic {
    async fn sum(&self, numbers: Incoming<u64>) -> u64;
}

/// A codec of single values.
#[lepus::service(codec = "text")]
trait Text {
    async fn join(&self, words: Incoming<String>) -> String;
    #[rpc(params = "bare")]
    async fn join_with(&self, between: String, words: Incoming<String>) -> String;
}

/// A type of one's own with this name, which is no stream.
mod own {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Incoming;
}

#[lepus::service]
trait Other {
    async fn take(&self, it: own::Incoming);
}

struct Sums;

async fn sum(numbers: Incoming<u64>) -> u64 {
    numbers.fold(0, |sum, number| async move { sum + number.unwrap_or_default() }).await
}

impl Adder for Sums {
    async fn sum(&self, numbers: Incoming<u64>) -> u64 {
        sum(numbers).await
    }
    async fn beside(&self, from: u64, numbers: Incoming<u64>, to: Option<u64>) -> u64 {
        from + sum(numbers).await + to.unwrap_or_default()
    }
    async fn nothing(&self, _: Incoming<u64>) {}
    async fn result(&self, mut numbers: Incoming<u64>) -> Result<u64, String> {
        let first = numbers.next().await.ok_or("none")?;
        first.map_err(|error| error.to_string())
    }
    async fn status(&self, numbers: Incoming<u64>) -> Result<u64, lepus::Status> {
        Ok(sum(numbers).await)
    }
    async fn alias(&self, numbers: Incoming<u64>) -> AddResult<u64> {
        Ok(sum(numbers).await)
    }
    async fn bytes(&self, parts: Incoming<Vec<u8>>) -> Vec<u8> {
        let parts: Vec<_> = parts.map(|part| part.unwrap_or_default()).collect().await;
        parts.concat()
    }
    async fn results(&self, _: Incoming<Result<u64, String>>) -> u64 {
        0
    }
    async fn with_options(&self, from: u64, numbers: Incoming<u64>) -> u64 {
        from + sum(numbers).await
    }
    fn both(&self, numbers: Incoming<u64>) -> impl Stream<Item = u64> {
        numbers.map(|number| number.unwrap_or_default())
    }
    fn both_with_errors(&self, numbers: Incoming<u64>) -> impl Stream<Item = Result<u64, String>> {
        numbers.map(|number| number.map_err(|error| error.to_string()))
    }
}

fn main() {
    let adder = AdderClient::local(Sums);
    let numbers = || stream::iter([1, 2]);
    let _: UploadCall<u64> = adder.sum(numbers()).total(std::time::Duration::from_secs(1));
    let _: UploadCall<u64> = adder.beside(1, numbers(), None).priority(3).fail_fast();
    let _: UploadCall<()> = adder.nothing(numbers()).header("tenant", "hare");
    let _: UploadCall<u64, String> = adder.result(numbers());
    let _: UploadCall<u64> = adder.status(numbers());
    let _: UploadCall<u64, String> = adder.alias(numbers());
    let _: UploadCall<Vec<u8>> = adder.bytes(stream::iter([vec![1]]));
    let _: UploadCall<u64> = adder.with_options(1, numbers());
    let _: StreamCall<u64> = adder.both(numbers()).window(8);
    let _: StreamCall<u64, String> = adder.both_with_errors(numbers());
    let sum = &AdderClient::DESCRIPTOR.methods()[0];
    assert!(sum.is_upload() && !sum.is_stream());
    assert_eq!(AdderClient::DESCRIPTOR.methods()[1].argument_names(), ["from", "to"]);
    assert!(!OtherClient::DESCRIPTOR.methods()[0].is_upload());
}
