use futures_util::stream::Stream;

struct Tick;

#[lepus::service]
trait Ticker {
    fn ticks(&self) -> impl Stream<Item = Tick>;
}

fn main() {}
