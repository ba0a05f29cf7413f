//! Questions to all instances, and their answers.

use super::{CalculatorClient, HOUR, LONG, serve};
use lepus::control::{HealthStatus, ServedKind, ServiceInfo};
use lepus::jobs::TaskPool;
use lepus::{Discovery, Job, Topic, WorkQueue};
use lepus_tests::proxy::{Cut, Way};
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

conformance!(
    all_that_is_served_is_found,
    a_service_is_asked_by_its_name,
    a_queue_is_asked_by_its_name,
    nobody_is_found_where_nobody_serves,
    answers_come_as_a_stream,
    an_instance_is_the_same_after_a_reconnect,
    what_was_stopped_is_not_found,
    a_stalled_instance_holds_nobody_up,
    figures_are_those_of_each_method,
    a_service_of_another_namespace_is_not_found,
);

#[lepus::tasks(name = "images")]
trait Images {
    /// Makes it smaller.
    async fn resize(&self, id: u64, width: u32) -> Result<(), String>;
}

struct Disk;

impl Images for Disk {
    async fn resize(&self, _: u64, _: u32) -> Result<(), String> {
        Ok(())
    }
}

fn nothing(_: Job<String>) -> std::future::Ready<()> {
    std::future::ready(())
}

/// Asks until it finds so many services, queues and groups.
async fn services(discovery: &Discovery, count: usize) -> Vec<ServiceInfo> {
    eventually("what is served is found", || async {
        let found = discovery.services().expect(count).await;
        let found = found.map_err(|error| error.to_string())?;
        if found.len() == count {
            Ok(found.into_iter().map(|it| it.into_inner()).collect())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

async fn all_that_is_served_is_found(env: Env) {
    for name in ["calculator", "notes", "mails", "images", "orders.audit"] {
        env.name(name);
    }
    let builder = env.builder().name("shop").metadata("zone", "eu-1");
    let connection = builder.open().await.unwrap();
    let server = serve(&connection).await;
    let mails = WorkQueue::<String>::new("mails").classic();
    let mails = mails.worker(&connection).start(nothing).await.unwrap();
    let images = WorkQueue::<()>::new("images").classic();
    let pool = TaskPool::new(&connection, ImagesWorker::new(Disk)).queue(&images);
    let images = pool.start().await.unwrap();
    let orders = Topic::<String>::new("orders");
    let group = orders.subscribe(&connection).bind("#").shared("audit");
    let group = group.classic();
    let group = group
        .start(async |_: lepus::Event<String>| {})
        .await
        .unwrap();

    let asking = env.connect().await;
    let found = services(&Discovery::new(&asking), 4).await;
    let names: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.kind)).collect();
    let expected = [
        ("calculator", ServedKind::Service),
        ("images", ServedKind::Tasks),
        ("mails", ServedKind::Queue),
        ("orders.audit", ServedKind::Group),
    ];
    assert_eq!(names, expected);
    let ids: BTreeSet<_> = found.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids.len(), 1, "one instance: {ids:?}");
    for served in &found {
        assert_eq!(served.metadata["zone"], "eu-1");
        assert!(served.started.ends_with('Z'), "{}", served.started);
    }
    let [calculator, images_info, mails_info, orders_info] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(calculator.version, "1.2.0");
    assert_eq!(calculator.description, "Sums and quotients.");
    let [fib, divide, note] = &calculator.endpoints[..] else {
        panic!("{calculator:?}");
    };
    assert_eq!(
        (fib.name.as_str(), fib.subject.as_str()),
        ("fib", "calculator")
    );
    assert_eq!(fib.data.doc, "The n-th Fibonacci number.");
    assert_eq!(
        (fib.data.timeout_ms, fib.data.idempotent),
        (Some(1500), true)
    );
    assert_eq!(divide.data.arguments, ["dividend", "divisor"]);
    assert_eq!(
        (note.queue_group.as_str(), note.data.oneway),
        ("notes", true)
    );
    assert_eq!(images_info.endpoints[0].name, "resize");
    assert_eq!(mails_info.endpoints[0].data.codec, "application/msgpack");
    assert_eq!(orders_info.endpoints[0].subject, "orders");
    for running in [server, mails, images, group] {
        running.stop().await.unwrap();
    }
    connection.delete_namespace().await.unwrap();
}

async fn a_service_is_asked_by_its_name(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let (first, second) = (env.connect().await, env.connect().await);
    let (_first, _second) = (serve(&first).await, serve(&second).await);
    let mails = WorkQueue::<String>::new("mails").transient();
    let _mails = mails.worker(&second).start(nothing).await.unwrap();
    let discovery = Discovery::new(&first);
    services(&discovery, 3).await;
    let calculators = discovery.info("calculator").expect(2).await.unwrap();
    let ids: Vec<_> = calculators.iter().map(|it| it.id.clone()).collect();
    assert!(calculators.iter().all(|it| it.name == "calculator"));
    assert!(
        ids.len() == 2 && ids[0] < ids[1],
        "in the order of their ids: {ids:?}"
    );
    let pongs = discovery.ping().instance(&ids[1]).of("calculator");
    assert_eq!(
        pongs.expect(2).await.unwrap().len(),
        2,
        "the last one counts"
    );
    for id in &ids {
        let pongs = discovery.ping().instance(id).await.unwrap();
        assert!(pongs.iter().all(|pong| pong.id == *id) && !pongs.is_empty());
    }
    assert_eq!(
        discovery.status("calculator").await.unwrap(),
        HealthStatus::Serving
    );
}

async fn a_queue_is_asked_by_its_name(env: Env) {
    env.name("mails");
    let connection = env.connect().await;
    let mails = WorkQueue::<String>::new("mails").classic();
    let _mails = mails.worker(&connection).start(nothing).await.unwrap();
    let discovery = Discovery::new(&connection);
    services(&discovery, 1).await;
    let stats = discovery.stats("mails").expect(1).await.unwrap();
    assert_eq!(
        (stats[0].kind, stats[0].name.as_str()),
        (ServedKind::Queue, "mails")
    );
    let health = discovery.health().of("mails").expect(1).await.unwrap();
    assert_eq!(health[0].status, HealthStatus::Serving);
    assert_eq!(health[0].consumers[0].queue, "mails");
}

/// The limit is an hour: the broker tells that nobody is there.
async fn nobody_is_found_where_nobody_serves(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let discovery = Discovery::new(&connection).limit(HOUR);
    // Nobody has declared the exchange yet.
    let none = timeout(LONG, discovery.services().into_future()).await;
    assert!(none.expect("at once").unwrap().is_empty());
    let _server = serve(&connection).await;
    services(&Discovery::new(&connection), 1).await;
    let none = timeout(LONG, discovery.stats("abacus").into_future()).await;
    assert!(none.expect("at once").unwrap().is_empty());
    let none = timeout(LONG, discovery.ping().instance("0").into_future()).await;
    assert!(none.expect("at once").unwrap().is_empty());
    let status = timeout(LONG, discovery.status("abacus"))
        .await
        .expect("at once");
    assert_eq!(status.unwrap(), HealthStatus::ServiceUnknown);
}

async fn answers_come_as_a_stream(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    services(&Discovery::new(&connection), 1).await;
    // It would go on for an hour: the answer is there before.
    let discovery = Discovery::new(&connection).limit(HOUR).quiet(HOUR);
    let mut answers = discovery.ping().stream().await.unwrap();
    let pong = timeout(LONG, answers.next()).await.expect("an answer");
    assert_eq!(pong.unwrap().unwrap().name, "calculator");
}

async fn an_instance_is_the_same_after_a_reconnect(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let (proxy, serving) = env.proxied().await;
    let _server = serve(&serving).await;
    let asking = env.connect().await;
    let discovery = Discovery::new(&asking);
    let before = services(&discovery, 1).await;
    assert!(proxy.cut(Cut::Rst) > 0);
    let mut state = serving.state();
    state.wait_for(|state| state.is_connected()).await.unwrap();
    let after = services(&discovery, 1).await;
    assert_eq!(before, after);
}

async fn what_was_stopped_is_not_found(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let server = serve(&connection).await;
    let mails = WorkQueue::<String>::new("mails").transient();
    let mails = mails.worker(&connection).start(nothing).await.unwrap();
    let discovery = Discovery::new(&connection).limit(HOUR);
    services(&discovery, 2).await;
    server.stop().await.unwrap();
    let left = discovery.services().expect(1).await.unwrap();
    assert_eq!(left[0].name, "mails");
    mails.stop().await.unwrap();
    // A question that comes before the queue is unbound gets neither an answer nor a return.
    let brief = Discovery::new(&connection).limit(Duration::from_secs(1));
    eventually("nobody is bound", || async {
        let found = brief.services().await.unwrap();
        found.is_empty()
    })
    .await;
    // It comes back under the same id.
    let _server = serve(&connection).await;
    assert_eq!(services(&discovery, 1).await[0].id, left[0].id);
}

/// The limit is an hour, and the stalled instance never answers.
async fn a_stalled_instance_holds_nobody_up(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let (proxy, stalled) = env.proxied().await;
    let serving = env.connect().await;
    let (_stalled, _server) = (serve(&stalled).await, serve(&serving).await);
    let discovery = Discovery::new(&serving);
    services(&discovery, 2).await;
    proxy.stall(Way::Up);
    let asked = discovery.limit(HOUR).ping().into_future();
    let pongs = timeout(LONG, asked).await.expect("an end").unwrap();
    assert_eq!(pongs.len(), 1, "{pongs:?}");
}

async fn figures_are_those_of_each_method(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    let calculator = CalculatorClient::new(&connection);
    for n in 0..3 {
        calculator.fib(n).await.unwrap();
    }
    calculator.divide(1, 0).await.unwrap_err();
    let discovery = Discovery::new(&connection);
    services(&discovery, 1).await;
    let stats = discovery.stats("calculator").expect(1).await.unwrap();
    let [fib, divide, note] = &stats[0].endpoints[..] else {
        panic!("{stats:?}");
    };
    assert_eq!((fib.num_requests, fib.num_errors), (3, 0));
    assert!(fib.processing_time > 0 && fib.average_processing_time <= fib.processing_time);
    assert_eq!(fib.data.latency.iter().sum::<u64>(), 3);
    assert_eq!(fib.data.latency.len(), 15);
    assert_eq!((divide.num_requests, divide.num_errors), (1, 1));
    assert_eq!(divide.last_error, "application");
    assert_eq!(divide.data.errors["application"], 1);
    assert_eq!((note.num_requests, note.last_error.as_str()), (0, ""));
}

async fn a_service_of_another_namespace_is_not_found(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    services(&Discovery::new(&connection), 1).await;
    let elsewhere = format!("{}.other", env.namespace());
    let other = lepus::Connection::builder(&env.uri).namespace(&elsewhere);
    let other = other.open().await.unwrap();
    assert!(Discovery::new(&other).services().await.unwrap().is_empty());
}
