//! The service of the orders, which calls the stock and pushes mails.

use lepus::jobs::Producer;
use lepus::{CallError, Code, Context, Error, Server, Status};

use crate::contract::{Orders, OrdersServer, OutOfStock, Receipt, StockClient};
use crate::layers::{self, auth::Claims, tenant::Tenant};
use crate::{Program, connect, mails};

struct OrdersService {
    stock: StockClient,
    mails: Producer<String>,
}

// ANCHOR: place
impl Orders for OrdersService {
    async fn place(&self, item: String, count: u32) -> Result<Receipt, Status> {
        // Neither the call nor the push mentions the request id, the tenant or the token: they flow on.
        let taken = self.stock.take(item.clone(), count).await;
        let left = taken.map_err(status_of)?;
        let context = Context::current();
        let user = context.get::<Claims>().map_or("", |claims| claims.user);
        let tenant = context.get::<Tenant>().map_or("", |tenant| &tenant.0);
        let mail = format!("{user} of {tenant} has ordered {count} {item}");
        self.mails
            .push(&mail)
            .await
            .map_err(|error| status_of(error.into()))?;
        Ok(Receipt {
            user: user.to_owned(),
            tenant: tenant.to_owned(),
            item,
            left,
        })
    }
}
// ANCHOR_END: place

/// The status for the caller of the orders.
fn status_of(error: CallError<OutOfStock>) -> Status {
    let code = match &error {
        CallError::Service(OutOfStock { .. }) => Code::FailedPrecondition,
        CallError::Rpc(error) => error.grpc_code(),
    };
    Status::new(code, error.public_message())
}

/// Starts the service, and the workers that send its mails.
///
/// # Errors
/// The broker is away, or refuses a queue.
pub async fn start(uri: &str) -> Result<Program, Error> {
    let connection = connect(uri, "orders").await?;
    let workers = mails::start(&connection).await?;
    let service = OrdersServer::new(OrdersService {
        stock: StockClient::new(&connection),
        mails: mails::queue().producer(&connection),
    });
    let service = layers::around(service).concurrency(16);
    let server = Server::new(&connection).serve(service).start().await?;
    Ok(Program::new(connection, vec![server, workers]))
}
