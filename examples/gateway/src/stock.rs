//! The service of the stock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lepus::{Context, Error, Server};

use crate::contract::{OutOfStock, Stock, StockServer};
use crate::layers::{self, tenant::Tenant};
use crate::{Program, connect};

/// The number of items that a tenant begins with.
const AT_FIRST: u32 = 3;

/// The stock of all tenants, in memory.
#[derive(Default)]
struct StockService {
    items: Mutex<HashMap<(String, String), u32>>,
}

impl StockService {
    /// Looks at an item of the tenant that the layers have found.
    fn with<R>(&self, item: String, change: impl FnOnce(&mut u32) -> R) -> R {
        let context = Context::current();
        let tenant = context.get::<Tenant>().map_or("", |tenant| &tenant.0);
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        change(items.entry((tenant.to_owned(), item)).or_insert(AT_FIRST))
    }
}

impl Stock for StockService {
    async fn take(&self, item: String, count: u32) -> Result<u32, OutOfStock> {
        self.with(item, |left| {
            *left = left.checked_sub(count).ok_or(OutOfStock { left: *left })?;
            Ok(*left)
        })
    }

    async fn left(&self, item: String) -> u32 {
        self.with(item, |left| *left)
    }
}

/// Starts the service.
///
/// # Errors
/// The broker is away, or refuses the queue.
pub async fn start(uri: &str) -> Result<Program, Error> {
    let connection = connect(uri, "stock").await?;
    let service = StockServer::new(StockService::default());
    let server = Server::new(&connection)
        .serve(layers::around(service))
        .start()
        .await?;
    Ok(Program::new(connection, vec![server]))
}
