use futures_util::stream::Stream;
use lepus::Incoming;

#[lepus::service]
trait Service {
    async fn two(&self, rows: Incoming<u64>, more: Incoming<String>);
    async fn reference(&self, rows: &Incoming<u64>);
    async fn exclusive(&self, rows: &mut Incoming<u64>);
    async fn pattern(&self, mut rows: Incoming<u64>);
    async fn optional(&self, rows: Option<Incoming<u64>>);
    async fn nested(&self, rows: Incoming<Incoming<u64>>);
    async fn borrowed(&self, rows: Incoming<&str>);
    async fn slices(&self, rows: Incoming<[u8]>);
    async fn opaque(&self, rows: Incoming<impl ToString>);
    async fn stream(&self, rows: impl Stream<Item = u64>);
    async fn returned(&self) -> Incoming<u64>;
    async fn returned_stream(&self, rows: Incoming<u64>) -> impl Stream<Item = u64>;
    fn not_async(&self, rows: Incoming<u64>) -> u64;
    #[rpc(oneway)]
    async fn oneway(&self, rows: Incoming<u64>);
    #[rpc(idempotent)]
    async fn idempotent(&self, rows: Incoming<u64>);
    #[rpc(at_most_once)]
    async fn at_most_once(&self, rows: Incoming<u64>);
    #[rpc(cancel = false)]
    async fn runs_on(&self, rows: Incoming<u64>);
    #[rpc(params = "bare")]
    async fn bare(&self, rows: Incoming<u64>);
    async fn default(&self, #[serde(default)] rows: Incoming<u64>);
}

#[lepus::tasks]
trait Jobs {
    async fn rows(&self, rows: Incoming<u64>);
}

fn main() {}
