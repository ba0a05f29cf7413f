//! The gateway: HTTP requests become calls, and their errors HTTP responses.

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lepus::{CallError, Connection, Context};
use serde::Deserialize;

use crate::contract::{OrdersClient, Receipt, StockClient};
use crate::layers::{PROPAGATED, request_id};

/// The clients of the services.
#[derive(Clone)]
struct Services {
    orders: OrdersClient,
    stock: StockClient,
}

/// The routes. `limit` is the time that an HTTP request may take with everything behind it.
pub fn router(connection: &Connection, limit: Duration) -> Router {
    let services = Services {
        orders: OrdersClient::new(connection),
        stock: StockClient::new(connection),
    };
    Router::new()
        .route("/orders", post(place))
        .route("/stock/{item}", get(left))
        .layer(middleware::from_fn_with_state(limit, context))
        .with_state(services)
}

/// The body of `POST /orders`.
#[derive(Deserialize)]
struct Order {
    item: String,
    count: u32,
}

async fn place(
    State(services): State<Services>,
    Json(order): Json<Order>,
) -> Result<Json<Receipt>, Failure> {
    let receipt = services.orders.place(order.item, order.count).await;
    Ok(Json(receipt.map_err(Failure)?))
}

async fn left(
    State(services): State<Services>,
    Path(item): Path<String>,
) -> Result<Json<u32>, Failure> {
    Ok(Json(services.stock.left(item).await.map_err(Failure)?))
}

// ANCHOR: context
/// Makes the context of an HTTP request, in which all calls of its handler are made: the headers
/// that flow on, a request id, the deadline.
async fn context(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let id = match text(headers, request_id::HEADER) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::new_v4().simple().to_string(),
    };
    let context = PROPAGATED
        .iter()
        .filter_map(|name| Some((name, text(headers, name)?)))
        .fold(Context::new(), |context, (name, value)| {
            context.with_header(name, value)
        })
        .with_header(request_id::HEADER, id.as_str())
        .with_timeout(limit);
    let mut response = context.scope(next.run(request)).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(request_id::HEADER, id);
    }
    response
}
// ANCHOR_END: context

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

// ANCHOR: failure
/// The response for a call that has failed.
struct Failure(CallError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let code = error.grpc_code();
        // The text for the operator; the client does not see it.
        tracing::info!(%code, %error, "a call has failed");
        let status = StatusCode::from_u16(code.http());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, error.public_message()).into_response()
    }
}
// ANCHOR_END: failure
