use futures_util::stream::Stream;

#[lepus::service]
trait Service {
    async fn asynchronous(&self) -> impl Stream<Item = u64>;
    fn nested(&self) -> impl Stream<Item = impl Stream<Item = u64>>;
    #[rpc(oneway)]
    fn oneway(&self) -> impl Stream<Item = u64>;
    #[rpc(at_most_once)]
    fn at_most_once(&self) -> impl Stream<Item = u64>;
    #[rpc(idempotent)]
    fn idempotent(&self) -> impl Stream<Item = u64>;
    #[rpc(cancel = false)]
    fn outlives(&self) -> impl Stream<Item = u64>;
    fn borrowed(&self) -> impl Stream<Item = &str>;
    fn borrowed_value(&self) -> impl Stream<Item = Result<&[u8], String>>;
}

#[lepus::service(dyn)]
trait Dynamic {
    fn numbers(&self) -> impl Stream<Item = u64>;
}

#[lepus::tasks]
trait Jobs {
    fn numbers(&self) -> impl Stream<Item = u64>;
}

fn main() {}
