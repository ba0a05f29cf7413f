use futures_util::stream::{self, Stream};
use std::rc::Rc;

#[lepus::service]
trait Ticker {
    fn ticks(&self) -> impl Stream<Item = u64>;
}

struct Clock;

impl Ticker for Clock {
    fn ticks(&self) -> impl Stream<Item = u64> {
        let count = Rc::new(7);
        stream::once(async move { *count })
    }
}

fn main() {}
