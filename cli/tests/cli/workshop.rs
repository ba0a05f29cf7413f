//! A service with a method for each thing that can happen to a call.

use std::collections::BTreeMap;

use lepus::{Code, Context, Running, Server, Status};
use lepus_tests::Env;
use serde::{Deserialize, Serialize};

/// The method's own error.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("nothing can be divided by zero")]
pub(crate) struct DivideByZero {
    dividend: i64,
}

/// Does one thing of each kind.
#[lepus::service(name = "workshop", version = "1.2.0")]
pub(crate) trait Workshop {
    /// The quotient, towards zero.
    #[rpc(timeout = "2s", idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
    /// The square of a number, whose body is the argument.
    #[rpc(params = "bare")]
    async fn square(&self, n: i64) -> i64;
    /// Fails with a status.
    async fn missing(&self) -> Result<(), Status>;
    /// Never returns.
    async fn sleep(&self);
    /// The header of a name.
    async fn header(&self, name: String) -> Option<String>;
    /// Names by numbers, which JSON does not have.
    async fn names(&self) -> BTreeMap<(u8, u8), String>;
    /// Bytes.
    async fn bytes(&self) -> Vec<u8>;
    /// A large number.
    async fn large(&self) -> u128;
    /// Has a queue of its own.
    #[rpc(queue = "workshop.aside")]
    async fn aside(&self, text: String) -> String;
    /// Returns nothing to its caller.
    #[rpc(oneway)]
    async fn tell(&self, text: String);
}

pub(crate) struct Bench;

impl Workshop for Bench {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
        dividend
            .checked_div(divisor)
            .ok_or(DivideByZero { dividend })
    }

    async fn square(&self, n: i64) -> i64 {
        n * n
    }

    async fn missing(&self) -> Result<(), Status> {
        Err(Status::new(Code::NotFound, "no such\nhammer"))
    }

    async fn sleep(&self) {
        std::future::pending().await
    }

    async fn header(&self, name: String) -> Option<String> {
        let context = Context::current();
        context
            .header(&name)
            .and_then(|value| value.as_str().map(str::to_owned))
    }

    async fn names(&self) -> BTreeMap<(u8, u8), String> {
        BTreeMap::from([((1, 2), "hare".to_owned())])
    }

    async fn bytes(&self) -> Vec<u8> {
        vec![0, 255]
    }

    async fn large(&self) -> u128 {
        u128::from(u64::MAX) + 1
    }

    async fn aside(&self, text: String) -> String {
        text
    }

    async fn tell(&self, _: String) {}
}

/// A workshop that is served in the namespace of a test.
pub(crate) struct Served {
    pub(crate) connection: lepus::Connection,
    running: Running,
}

impl Served {
    pub(crate) async fn start(env: &Env) -> Self {
        for queue in ["workshop", "workshop.aside"] {
            // To be deleted at the end of the test.
            let _ = env.name(queue);
        }
        let connection = env.connect().await;
        let server = Server::new(&connection).serve(WorkshopServer::new(Bench).concurrency(8));
        let running = server.start().await.expect("the server starts");
        let served = Self {
            connection,
            running,
        };
        served.until_found(env).await;
        served
    }

    /// An instance is found a moment after its start.
    async fn until_found(&self, env: &Env) {
        let asker = env.connect().await;
        let discovery = lepus::Discovery::new(&asker);
        lepus_tests::eventually("found", || async {
            let pongs = discovery.ping().of("workshop").expect(1).await;
            pongs.is_ok_and(|pongs| !pongs.is_empty())
        })
        .await;
        asker.close().await;
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("the server stops");
        self.connection.close().await;
    }
}
