//! The contracts of the two services, which a crate of its own would hold for their callers.

use lepus::Status;
use serde::{Deserialize, Serialize};

/// Takes orders.
#[lepus::service]
pub trait Orders {
    /// Takes the items from the stock, and sends a mail.
    async fn place(&self, item: String, count: u32) -> Result<Receipt, Status>;
}

/// Keeps the stock of each tenant.
#[lepus::service]
pub trait Stock {
    /// Takes items, and returns the number of those that are left.
    async fn take(&self, item: String, count: u32) -> Result<u32, OutOfStock>;

    /// The number of items.
    #[rpc(idempotent)]
    async fn left(&self, item: String) -> u32;
}

/// An order that was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The customer, by the claims of the token.
    pub user: String,
    /// The tenant whose stock was used.
    pub tenant: String,
    /// The item.
    pub item: String,
    /// The number of items that are left.
    pub left: u32,
}

/// The error of a stock that has too few items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("only {left} left")]
pub struct OutOfStock {
    /// The number of items that are left.
    pub left: u32,
}
