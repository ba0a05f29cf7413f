//! A broker to test against. One conformance test runs on each.
//!
//! ```
//! use lepus_tests::{Env, conformance};
//!
//! async fn a_queue_has_a_name(env: Env) {
//!     let queue = env.name("jobs"); // nobody else's
//!     assert!(env.uri.starts_with("amqp"));
//! #   let _ = queue;
//! }
//!
//! conformance!(a_queue_has_a_name);
//! // gives the tests embedded::a_queue_has_a_name and rabbitmq::a_queue_has_a_name
//! ```

use crate::deadline::{TEST_LIMIT, within};
use crate::greeting::{Greeting, greeting};
use crate::proxy::Proxy;
use crate::raw::Raw;
use crate::report;
use futures_util::FutureExt;
use lepus_broker::{Broker, BrokerBuilder};
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

/// The pauses between attempts to reconnect.
const SOON: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The broker of one test, and what it can do.
#[derive(Debug)]
pub struct Env {
    pub uri: String,
    pub features: &'static [Feature],
    pub server: Greeting,
    /// The name of the test.
    pub test: &'static str,
    prefix: String,
    /// The queues that the test has named, to be deleted when it has ended.
    named: Arc<std::sync::Mutex<Vec<String>>>,
    embedded: Option<Broker>,
}

/// Which broker a test asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Embedded,
    RabbitMq,
}

/// A feature that one broker has and the other has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Faults on demand, through [`Env::embedded`].
    Faults,
    /// Real quorum queues, whose limits and counts are RabbitMQ's own.
    QuorumQueues,
}

impl Env {
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// A name for a queue or exchange that no other test and no other run uses: what a
    /// connection of [`Env::builder`] makes of `what`. Queues so named are deleted at the
    /// end of the test.
    pub fn name(&self, what: &str) -> String {
        let name = format!("{}.{what}", self.prefix);
        let mut named = self.named.lock().expect("no panic under a lock");
        named.push(name.clone());
        name
    }

    /// A connection of Lepus in this test's namespace, which is quick to come back.
    pub async fn connect(&self) -> lepus::Connection {
        self.connect_at(&self.uri).await
    }

    /// The same by a proxy of its own.
    pub async fn proxied(&self) -> (Proxy, lepus::Connection) {
        let proxy = Proxy::start(&self.uri).await;
        let connection = self.connect_at(proxy.uri()).await;
        (proxy, connection)
    }

    /// The same at an address, such as a proxy's.
    pub async fn connect_at(&self, uri: &str) -> lepus::Connection {
        let builder = self.builder_at(uri).backoff(SOON, LONGEST_PAUSE);
        let opened = builder.open().await;
        opened.unwrap_or_else(|error| panic!("{}: {error}", self.test))
    }

    /// A connection to be configured.
    pub fn builder(&self) -> lepus::amqp::ConnectionBuilder {
        self.builder_at(&self.uri)
    }

    /// The same by another way, such as a proxy.
    pub fn builder_at(&self, uri: &str) -> lepus::amqp::ConnectionBuilder {
        lepus::Connection::builder(uri).namespace(&self.prefix)
    }

    /// The prefix of all those names: a `namespace` for a connection.
    pub fn namespace(&self) -> &str {
        &self.prefix
    }

    /// The embedded broker itself, where this is one: it has faults on demand.
    pub fn embedded(&self) -> Option<&Broker> {
        self.embedded.as_ref()
    }

    /// Says that a part of this test does not apply here. It is printed at the end
    /// of a run: what was not run is never silently green.
    pub fn leave_out(&self, why: &str) {
        report::left_out(self.test, why);
    }
}

/// Instantiates each `async fn(Env)` for both brokers: `embedded::name` and
/// `rabbitmq::name`. A second list in one file takes a module's name first:
/// `conformance!(faults: a, b)`; `conformance!(one_thread faults: a, b)` runs them on runtimes of
/// one thread, where what is ready at the same time runs in order; `conformance!(in_turn; a, b)` runs
/// them one after the other, as [`run_in_turn`] does.
#[macro_export]
macro_rules! conformance {
    (in_turn; $($test:ident),+ $(,)?) => {
        $crate::conformance!(@ "multi_thread" run_in_turn $($test),+);
    };
    (one_thread $module:ident: $($test:ident),+ $(,)?) => {
        mod $module {
            use super::*;
            $crate::conformance!(@ "current_thread" run $($test),+);
        }
    };
    ($module:ident: $($test:ident),+ $(,)?) => {
        mod $module {
            use super::*;
            $crate::conformance!($($test),+);
        }
    };
    ($($test:ident),+ $(,)?) => {
        $crate::conformance!(@ "multi_thread" run $($test),+);
    };
    (@ $flavor:tt $run:ident $($test:ident),+) => {
        mod embedded {
            $(#[tokio::test(flavor = $flavor)]
            async fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                $crate::env::$run($crate::env::On::Embedded, name, super::$test).await;
            })+
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = $flavor)]
            async fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                $crate::env::$run($crate::env::On::RabbitMq, name, super::$test).await;
            })+
        }
    };
}

/// Runs one test on one broker, under the time limit of a test.
pub async fn run<F, T>(on: On, name: &'static str, test: F)
where
    F: FnOnce(Env) -> T,
    T: Future<Output = ()>,
{
    run_within(TEST_LIMIT, on, name, test).await;
}

/// The same under another limit, for a test that is asked to take longer.
pub async fn run_within<F, T>(limit: Duration, on: On, name: &'static str, test: F)
where
    F: FnOnce(Env) -> T,
    T: Future<Output = ()>,
{
    run_with(Broker::builder(), limit, on, name, test).await;
}

/// The same on an embedded broker so made, where it is the embedded one.
pub async fn run_with<F, T>(
    embedded: BrokerBuilder,
    limit: Duration,
    on: On,
    name: &'static str,
    test: F,
) where
    F: FnOnce(Env) -> T,
    T: Future<Output = ()>,
{
    within(name, limit, async {
        if let Some(env) = open(on, name, embedded).await {
            let (uri, named) = (env.uri.clone(), Arc::clone(&env.named));
            let control = format!("{}.lepus.control", env.prefix);
            let ended = AssertUnwindSafe(test(env)).catch_unwind().await;
            if on == On::RabbitMq {
                let named = named.lock().expect("no panic under a lock").clone();
                delete(&uri, &named, &control).await;
            }
            ended.unwrap_or_else(|panic| resume_unwind(panic));
        }
    })
    .await;
}

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits until no other test of this process holds its turn. For tests that look at the process as
/// a whole: its threads, its descriptors, its log.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// [`run`] in turn with others that are run so. Its time begins with its turn, and its turn ends after
/// the queues are deleted: that takes a connection of lapin's, whose thread the next test would find.
pub async fn run_in_turn<F, T>(on: On, name: &'static str, test: F)
where
    F: FnOnce(Env) -> T,
    T: Future<Output = ()>,
{
    let _turn = turn().await;
    run(on, name, test).await;
}

/// Leaves a broker that others use as it was found.
async fn delete(uri: &str, queues: &[String], exchange: &str) {
    if queues.is_empty() {
        return;
    }
    let raw = Raw::open(uri).await;
    for queue in queues {
        if raw.exists(queue).await {
            raw.delete(queue).await;
        }
    }
    // Deleting what does not exist is no error.
    raw.delete_exchange(exchange).await;
    raw.close().await;
}

async fn open(on: On, test: &'static str, builder: BrokerBuilder) -> Option<Env> {
    let (uri, embedded, features): (_, _, &[Feature]) = match on {
        On::Embedded => {
            let broker = builder.start().await.expect("the embedded broker starts");
            (broker.uri(), Some(broker), &[Feature::Faults])
        }
        On::RabbitMq => {
            let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            let chosen = rabbitmq(
                variable("AMQP_URL"),
                variable("LEPUS_BROKERS").as_deref(),
                report::is_ci(),
            );
            match chosen {
                Rabbit::At(uri) => (uri, None, &[Feature::QuorumQueues]),
                Rabbit::LeftOut => {
                    report::skipped(test, "LEPUS_BROKERS=embedded");
                    return None;
                }
                Rabbit::Missing(instruction) => panic!("{test}: {instruction}"),
            }
        }
    };
    let server = match greeting(&uri).await {
        Ok(server) => server,
        Err(error) => panic!("{test}: no broker answers on {on:?}: {error}"),
    };
    let key = match on {
        On::Embedded => "embedded",
        On::RabbitMq => "rabbitmq",
    };
    report::covered(key, &format!("{} {}", server.product, server.version), test);
    Some(Env {
        uri,
        features,
        server,
        test,
        prefix: prefix(test),
        named: Arc::default(),
        embedded,
    })
}

fn prefix(test: &str) -> String {
    let id = Uuid::new_v4().simple().to_string();
    let name = test.rsplit("::").next().unwrap_or(test);
    // A queue's name has 255 bytes; leave most of them to the test.
    format!("lepus-test.{name:.60}.{}", &id[..12])
}

#[derive(Debug, PartialEq, Eq)]
enum Rabbit {
    At(String),
    LeftOut,
    Missing(&'static str),
}

fn rabbitmq(url: Option<String>, brokers: Option<&str>, ci: bool) -> Rabbit {
    match (url, brokers, ci) {
        (_, Some("embedded"), false) => Rabbit::LeftOut,
        (_, Some("embedded"), true) => Rabbit::Missing(
            "LEPUS_BROKERS=embedded is refused when CI is set: RabbitMQ is part of it",
        ),
        (_, Some(_), _) => Rabbit::Missing("LEPUS_BROKERS knows one value: embedded"),
        (Some(uri), None, _) => Rabbit::At(uri),
        (None, None, _) => Rabbit::Missing(
            "no RabbitMQ: run tests/run, set AMQP_URL, or set LEPUS_BROKERS=embedded to leave it out",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rabbitmq_is_never_left_out_in_silence() {
        let uri = || Some("amqp://there".to_owned());
        assert_eq!(
            rabbitmq(uri(), None, true),
            Rabbit::At("amqp://there".into())
        );
        assert_eq!(rabbitmq(uri(), Some("embedded"), false), Rabbit::LeftOut);
        assert!(
            matches!(rabbitmq(None, None, false), Rabbit::Missing(text) if text.contains("AMQP_URL"))
        );
        assert!(matches!(
            rabbitmq(uri(), Some("embedded"), true),
            Rabbit::Missing(_)
        ));
        assert!(matches!(
            rabbitmq(uri(), Some("rabitmq"), false),
            Rabbit::Missing(_)
        ));
    }

    #[test]
    fn names_are_unique_and_short() {
        let long = format!("a::b::{}", "c".repeat(200));
        assert_ne!(prefix(&long), prefix(&long));
        assert!(prefix(&long).len() < 100);
    }

    async fn broken(env: Env) {
        assert_eq!(env.uri, "", "a broker has an address");
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "a broker has an address")]
    async fn a_test_that_fails_fails() {
        run(On::Embedded, "broken", broken).await;
    }
}
