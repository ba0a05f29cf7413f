//! Aliases of a `Result`, with names that end in `Result`.

use lepus::{Call, Status, rpc::Never};

type ShopResult<T> = Result<T, String>;
type Answer = Status;

mod shop {
    pub type Result<T> = std::result::Result<T, lepus::Status>;
}

#[lepus::service]
trait Shop {
    async fn price(&self) -> ShopResult<u64>;
    async fn stock(&self) -> shop::Result<u64>;
    async fn order(&self) -> Result<(), Answer>;
}

#[lepus::tasks]
trait Deliveries {
    async fn deliver(&self) -> ShopResult<()>;
}

fn main() {
    fn types(shop: &ShopClient) -> (Call<u64, String>, Call<u64, Never>, Call<()>) {
        (shop.price(), shop.stock(), shop.order())
    }
    let _ = (types, DeliveriesProducer::DESCRIPTOR);
}
