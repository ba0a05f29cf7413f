//! An error that does not decide about another attempt, and cannot be made to: its type is another
//! crate's.

struct Shop;

#[lepus::tasks]
trait Images {
    async fn resize(&self, id: u64) -> Result<(), std::num::ParseIntError>;
}

impl Images for Shop {
    async fn resize(&self, _id: u64) -> Result<(), std::num::ParseIntError> {
        Ok(())
    }
}

fn main() {}
