//! Traces over several hops, and metrics, on the embedded broker: asserted name by name. They are run once for each way
//! to make spans, which the root of the test program sets up.
//!
//! All spans of a test program go to one exporter. Each test finds its own by their trace.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::Stream;
use lepus::jobs::Producer;
use lepus::{Connection, Fanout, Job, Server, WorkQueue};
use lepus_broker::{Broker, Target};
use lepus_otel::{Telemetry, remote_context};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, TracerProvider as _};
use opentelemetry::{Key, TraceId, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tokio::sync::mpsc;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The exporter of all spans, and telemetry that gives it those of messages.
static SET_UP: LazyLock<(InMemorySpanExporter, Telemetry)> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    (exporter, crate::set_up(tracers.tracer("test")))
});

/// Calls the prices, and pushes a mail.
#[lepus::service]
trait Shop {
    async fn order(&self, item: String) -> u32;
}

#[lepus::service]
trait Prices {
    async fn price(&self, item: String) -> Result<u32, String>;
    async fn stuck(&self);
}

struct ShopService {
    prices: PricesClient,
    mails: Producer<String>,
}

impl Shop for ShopService {
    async fn order(&self, item: String) -> u32 {
        let price = self.prices.price(item.clone()).await.unwrap();
        self.mails.push(&item).await.unwrap();
        price
    }
}

struct PricesService;

impl Prices for PricesService {
    async fn price(&self, item: String) -> Result<u32, String> {
        item.parse().map_err(|_| "no number".to_owned())
    }

    async fn stuck(&self) {
        std::future::pending().await
    }
}

pub(crate) struct Fixture {
    broker: Broker,
    metrics: InMemoryMetricExporter,
    meters: SdkMeterProvider,
    telemetry: Telemetry,
    pub(crate) connection: Connection,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let metrics = InMemoryMetricExporter::default();
        let meters = SdkMeterProvider::builder()
            .with_periodic_exporter(metrics.clone())
            .build();
        let broker = Broker::start().await.unwrap();
        let telemetry = SET_UP.1.clone().meter_provider(&meters);
        let connection = telemetry.attach(Connection::builder(&broker.uri()));
        Self {
            connection: connection.open().await.unwrap(),
            broker,
            metrics,
            meters,
            telemetry,
        }
    }

    async fn another(&self) -> Connection {
        let builder = Connection::builder(&self.broker.uri());
        self.telemetry.attach(builder).open().await.unwrap()
    }

    /// The measurements of a metric: the number of values and their sum, by its attributes.
    fn measured(&self, name: &str) -> BTreeMap<String, (u64, f64)> {
        self.meters.force_flush().unwrap();
        let finished = self.metrics.get_finished_metrics().unwrap();
        let last = finished.last().expect("metrics were exported");
        let mut found = BTreeMap::new();
        let metrics = last.scope_metrics().flat_map(|scope| scope.metrics());
        for metric in metrics.filter(|metric| metric.name() == name) {
            let AggregatedMetrics::F64(data) = metric.data() else {
                panic!("{name} is no metric of f64");
            };
            match data {
                MetricData::Sum(sum) => {
                    for point in sum.data_points() {
                        found.insert(text_of(point.attributes()), (1, point.value()));
                    }
                }
                MetricData::Histogram(histogram) => {
                    for point in histogram.data_points() {
                        let value = (point.count(), point.sum());
                        found.insert(text_of(point.attributes()), value);
                    }
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        found
    }
}

/// Attributes as `name=value name=value`, in the order of their names.
fn text_of<'a>(attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>) -> String {
    let mut texts: Vec<_> = attributes
        .map(|attribute| format!("{}={}", attribute.key, attribute.value))
        .collect();
    texts.sort();
    texts.join(" ")
}

/// Waits until a condition holds, for at most twenty seconds.
async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = probe() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.unwrap_or_else(|_| panic!("not within 20 s: {what}; {:?}", finished()))
}

fn finished() -> Vec<SpanData> {
    SET_UP.0.get_finished_spans().unwrap()
}

/// The spans of a trace, once there are this many.
pub(crate) async fn spans_of(trace: TraceId, count: usize) -> Vec<SpanData> {
    let of_trace = || {
        let spans = finished().into_iter();
        let spans = spans.filter(|span| span.span_context.trace_id() == trace);
        spans.collect::<Vec<_>>()
    };
    eventually(&format!("{count} spans"), || {
        Some(of_trace()).filter(|spans| spans.len() >= count)
    })
    .await
}

/// Runs a future in a span of its own, and returns the trace of it.
pub(crate) async fn in_trace<T>(future: impl Future<Output = T>) -> (T, TraceId) {
    let root = tracing::info_span!("root");
    let trace = root.context().span().span_context().trace_id();
    (future.instrument(root).await, trace)
}

/// `name (kind) < name of the parent`, for each span, in alphabetical order.
pub(crate) fn tree(spans: &[SpanData]) -> Vec<String> {
    let mut lines: Vec<_> = spans
        .iter()
        .map(|span| {
            let is_parent = |other: &&SpanData| other.span_context.span_id() == span.parent_span_id;
            let parent = spans.iter().find(is_parent);
            let parent = parent.map_or_else(String::new, |parent| {
                format!(" < {} ({:?})", parent.name, parent.span_kind)
            });
            format!("{} ({:?}){parent}", span.name, span.span_kind)
        })
        .collect();
    lines.sort();
    lines
}

pub(crate) fn find<'a>(spans: &'a [SpanData], name: &str, kind: &SpanKind) -> &'a SpanData {
    spans
        .iter()
        .find(|span| span.name == name && span.span_kind == *kind)
        .unwrap_or_else(|| panic!("no {name} in {spans:?}"))
}

fn attribute(span: &SpanData, name: &'static str) -> Option<Value> {
    let name = Key::from_static_str(name);
    let mut values = span.attributes.iter().filter(|it| it.key == name);
    let value = values.next().map(|it| it.value.clone());
    assert!(values.next().is_none(), "{name:?} twice: {span:?}");
    value
}

fn text(span: &SpanData, name: &'static str) -> Option<String> {
    attribute(span, name).map(|value| value.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hops_are_one_trace_with_the_right_parents() {
    let fixture = Fixture::new().await;
    let connection = &fixture.connection;
    let mails = WorkQueue::<String>::new("mails");
    let (sent, mut is_sent) = mpsc::unbounded_channel();
    let worker = mails.worker(connection).start(move |job: Job<String>| {
        sent.send(job.trace().clone()).unwrap();
        async {}
    });
    let worker = worker.await.unwrap();
    let shop = ShopServer::new(ShopService {
        prices: PricesClient::new(connection),
        mails: mails.producer(connection),
    });
    let server = Server::new(connection)
        .serve(shop)
        .serve(PricesServer::new(PricesService));
    let server = server.start().await.unwrap();
    let shop = ShopClient::new(connection);
    let (price, trace) = in_trace(async { shop.order("7".to_owned()).await }).await;
    assert_eq!(price.unwrap(), 7);
    let of_job = is_sent.recv().await.unwrap();
    let spans = spans_of(trace, 7).await;
    let expected = [
        "prices/price (Client) < shop/order (Server)",
        "prices/price (Server) < prices/price (Client)",
        "process mails (Consumer) < publish mails (Producer)",
        "publish mails (Producer) < shop/order (Server)",
        "root (Internal)",
        "shop/order (Client) < root (Internal)",
        "shop/order (Server) < shop/order (Client)",
    ];
    assert_eq!(tree(&spans), expected);
    let remote = find(&spans, "shop/order", &SpanKind::Server);
    assert!(remote.parent_span_is_remote);
    let of_job = remote_context(&of_job).span().span_context().span_id();
    let publish = find(&spans, "publish mails", &SpanKind::Producer);
    assert_eq!(of_job, publish.span_context.span_id());

    let call = find(&spans, "shop/order", &SpanKind::Client);
    for (name, value) in [
        ("rpc.system.name", "lepus"),
        ("rpc.method", "shop/order"),
        ("rpc.response.status_code", "OK"),
        ("outcome", "ok"),
        ("server.address", "shop"),
        ("network.peer.address", "127.0.0.1"),
    ] {
        assert_eq!(text(call, name).as_deref(), Some(value), "{name}");
    }
    let port = attribute(call, "network.peer.port");
    let uri = fixture.broker.uri();
    assert!(port.is_some_and(|port| uri.contains(&port.to_string())));
    assert_eq!(
        (text(call, "error.type"), &call.status),
        (None, &Status::Unset)
    );
    let job = find(&spans, "process mails", &SpanKind::Consumer);
    for (span, operation, kind) in [(publish, "publish", "send"), (job, "process", "process")] {
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", kind),
            ("messaging.destination.name", "mails"),
            ("messaging.rabbitmq.destination.routing_key", "mails"),
            ("outcome", "ok"),
        ] {
            assert_eq!(text(span, name).as_deref(), Some(value), "{name}");
        }
    }
    let tag = attribute(job, "messaging.rabbitmq.message.delivery_tag");
    assert_eq!(tag, Some(Value::I64(1)));
    let id = |span| text(span, "messaging.message.id").expect("an id");
    assert_eq!(id(publish), id(job));

    server.stop().await.unwrap();
    worker.stop().await.unwrap();

    let rpc = "rpc.method=shop/order rpc.response.status_code=OK rpc.system.name=lepus";
    for name in ["rpc.client.call.duration", "rpc.server.call.duration"] {
        let durations = fixture.measured(name);
        assert_eq!(durations[rpc].0, 1, "{durations:?}");
        assert!(durations[rpc].1 > 0.0, "{durations:?}");
        assert_eq!(durations.len(), 2, "{durations:?}");
    }
    let published = "messaging.destination.name=mails messaging.operation.name=publish \
                     messaging.operation.type=send messaging.system=rabbitmq";
    let processed = published
        .replace("publish", "process")
        .replace("send", "process");
    for (name, attributes) in [
        ("messaging.client.operation.duration", published),
        ("messaging.client.sent.messages", published),
        ("messaging.process.duration", &processed),
        ("messaging.client.consumed.messages", &processed),
    ] {
        let measured = fixture.measured(name);
        assert_eq!(measured.len(), 1, "{measured:?}");
        assert_eq!(measured[attributes].0, 1, "{measured:?}");
    }
    let in_flight = fixture.measured("lepus.handlers.in_flight");
    assert_eq!(in_flight.len(), 3, "{in_flight:?}");
    assert!(in_flight.values().all(|(_, sum)| *sum == 0.0));
    let wait = fixture.measured("lepus.queue.wait");
    assert_eq!(wait["lepus.handler=mails lepus.kind=job"].0, 1, "{wait:?}");
    let per_message = fixture.measured("lepus.client.calls_per_message");
    assert_eq!(per_message["lepus.handler=shop"], (1, 1.0));
}

/// Makes spans of its own, before its first await and after it.
#[lepus::service]
trait Kitchen {
    async fn cook(&self);
    fn courses(&self) -> impl Stream<Item = u32>;
}

struct KitchenService;

impl Kitchen for KitchenService {
    async fn cook(&self) {
        tracing::info_span!("chop").in_scope(|| ());
        tokio::task::yield_now().await;
        async { tokio::task::yield_now().await }
            .instrument(tracing::info_span!("fry"))
            .await;
    }

    fn courses(&self) -> impl Stream<Item = u32> {
        futures_util::stream::iter([1, 2, 3])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_has_one_span() {
    let fixture = Fixture::new().await;
    let server = Server::new(&fixture.connection).streams(0);
    let server = server.serve(KitchenServer::new(KitchenService));
    let server = server.start().await.unwrap();
    let kitchen = KitchenClient::new(&fixture.connection);
    let (refused, trace) = in_trace(async { kitchen.courses().await }).await;
    assert!(refused.is_err());
    let expected = [
        "kitchen/courses (Client) < root (Internal)",
        "kitchen/courses (Server) < kitchen/courses (Client)",
        "root (Internal)",
    ];
    let spans = spans_of(trace, 3).await;
    assert_eq!(tree(&spans), expected);
    let span = find(&spans, "kitchen/courses", &SpanKind::Server);
    let code = text(span, "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("RESOURCE_EXHAUSTED"));
    server.stop().await.unwrap();
    let spans = finished();
    let is_it = |span: &&SpanData| span.name == "kitchen/courses";
    assert_eq!(spans.iter().filter(is_it).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_handler_are_children_of_its_own() {
    let fixture = Fixture::new().await;
    let connection = &fixture.connection;
    let server = Server::new(connection).serve(KitchenServer::new(KitchenService));
    let server = server.start().await.unwrap();
    let meals = Fanout::<u32>::new("meals");
    let guests = meals.subscribe(connection).start(|_| async {
        tokio::task::yield_now().await;
        tracing::info_span!("eat").in_scope(|| ());
    });
    let guests = guests.await.unwrap();
    let kitchen = KitchenClient::new(connection);
    let publisher = meals.publisher(connection);
    let served = async {
        kitchen.cook().await.unwrap();
        publisher.publish(&1).await.unwrap();
    };
    let ((), trace) = in_trace(served).await;
    let expected = [
        "chop (Internal) < kitchen/cook (Server)",
        "eat (Internal) < process meals (Consumer)",
        "fry (Internal) < kitchen/cook (Server)",
        "kitchen/cook (Client) < root (Internal)",
        "kitchen/cook (Server) < kitchen/cook (Client)",
        "process meals (Consumer) < publish meals (Producer)",
        "publish meals (Producer) < root (Internal)",
        "root (Internal)",
    ];
    assert_eq!(tree(&spans_of(trace, 8).await), expected);
    for running in [server, guests] {
        running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_share_a_message_keep_their_traces_apart() {
    let fixture = Fixture::new().await;
    let server =
        Server::new(&fixture.connection).serve(PricesServer::new(PricesService).concurrency(4));
    let server = server.start().await.unwrap();
    let calling = fixture.another().await;
    let prices = PricesClient::builder(&calling).coalesce(64).build();
    prices.price("1".to_owned()).await.unwrap();
    let calls = (0..50).map(|number: u32| {
        let prices = prices.clone();
        tokio::spawn(async move {
            let call = async { prices.price(number.to_string()).await };
            let (price, trace) = in_trace(call).await;
            assert_eq!(price.unwrap(), number);
            trace
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let spans = spans_of(call.await.unwrap(), 3).await;
        let expected = [
            "prices/price (Client) < root (Internal)",
            "prices/price (Server) < prices/price (Client)",
            "root (Internal)",
        ];
        assert_eq!(tree(&spans), expected);
    }
    let sent = fixture.measured("lepus.client.calls_per_message")["lepus.handler=prices"];
    assert_eq!(sent.1, 51.0, "{sent:?}");
    assert!(sent.0 < 51, "some have shared a message: {sent:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_told_in_spans_and_metrics() {
    let fixture = Fixture::new().await;
    let server = Server::new(&fixture.connection).serve(PricesServer::new(PricesService));
    let server = server.start().await.unwrap();
    let prices = PricesClient::new(&fixture.connection);

    // The method's own error is no error of the server.
    let call = async { prices.price("seven".to_owned()).await };
    let (price, trace) = in_trace(call).await;
    assert!(price.is_err());
    let spans = spans_of(trace, 3).await;
    for kind in [SpanKind::Client, SpanKind::Server] {
        let span = find(&spans, "prices/price", &kind);
        assert_eq!(text(span, "error.type").as_deref(), Some("APPLICATION"));
        assert_eq!(span.status, Status::Unset, "{span:?}");
    }

    let stuck = async { prices.stuck().timeout(Duration::from_millis(100)).await };
    let (stopped, trace) = in_trace(stuck).await;
    assert!(stopped.unwrap_err().is_timeout());
    let spans = spans_of(trace, 3).await;
    for kind in [SpanKind::Client, SpanKind::Server] {
        let span = find(&spans, "prices/stuck", &kind);
        let code = text(span, "rpc.response.status_code");
        assert_eq!(code.as_deref(), Some("DEADLINE_EXCEEDED"));
        assert_eq!(span.status, Status::error("DEADLINE_EXCEEDED"), "{span:?}");
    }

    // A client of a later version of the contract calls a method that the server does not have.
    let (refused, trace) = in_trace(async {
        let later = later::PricesClient::new(&fixture.connection);
        later.discount().await
    })
    .await;
    assert!(refused.is_err());
    let spans = spans_of(trace, 3).await;
    let span = find(&spans, "prices/_OTHER", &SpanKind::Server);
    assert_eq!(span.status, Status::error("UNIMPLEMENTED"));
    let parent = find(&spans, "prices/discount", &SpanKind::Client);
    assert_eq!(span.parent_span_id, parent.span_context.span_id());

    let durations = fixture.measured("rpc.server.call.duration");
    let expected = [
        ("_OTHER", "UNIMPLEMENTED"),
        ("price", "APPLICATION"),
        ("stuck", "DEADLINE_EXCEEDED"),
    ];
    let expected = expected.map(|(method, code)| {
        format!(
            "error.type={code} rpc.method=prices/{method} rpc.response.status_code={code} \
             rpc.system.name=lepus"
        )
    });
    let mut found: Vec<_> = durations.into_keys().collect();
    found.sort_by_key(|text| expected.iter().position(|it| it == text));
    assert_eq!(found, expected);
    server.stop().await.unwrap();
}

mod later {
    #[lepus::service(name = "prices", client)]
    pub(crate) trait Prices {
        async fn discount(&self) -> u32;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_jobs_and_events_are_told_and_counted() {
    let fixture = Fixture::new().await;
    let connection = &fixture.connection;
    let retry = lepus::RetryPolicy::default()
        .attempts(2)
        .backoff(Duration::from_millis(10), Duration::from_millis(10));
    let numbers = WorkQueue::<u32>::new("numbers").retry(retry);
    let worker = numbers
        .worker(connection)
        .start(|_| async { Err::<(), _>("no") });
    let worker = worker.await.unwrap();
    let (pushed, trace) = in_trace(async { numbers.producer(connection).push(&1).await }).await;
    pushed.unwrap();
    // Both attempts belong to the trace of the push.
    let spans = spans_of(trace, 4).await;
    let job = "process numbers (Consumer) < publish numbers (Producer)";
    let publish = "publish numbers (Producer) < root (Internal)";
    assert_eq!(tree(&spans), [job, job, publish, "root (Internal)"]);
    let span = find(&spans, "process numbers", &SpanKind::Consumer);
    assert_eq!(text(span, "error.type").as_deref(), Some("application"));
    assert_eq!(span.status, Status::error("application"));
    let queue = "lepus.kind=job messaging.destination.name=numbers";
    for name in ["lepus.retries", "lepus.dead_letters"] {
        let counted = || fixture.measured(name).get(queue).copied();
        eventually(name, || counted().filter(|count| *count == (1, 1.0))).await;
    }

    let news = Fanout::<u32>::new("news");
    let events = news.subscribe(connection).start(|_| async {});
    let events = events.await.unwrap();
    let (sent, trace) = in_trace(async { news.publisher(connection).publish(&1).await }).await;
    sent.unwrap();
    let expected = [
        "process news (Consumer) < publish news (Producer)",
        "publish news (Producer) < root (Internal)",
        "root (Internal)",
    ];
    let spans = spans_of(trace, 3).await;
    assert_eq!(tree(&spans), expected);
    for (name, kind) in [
        ("publish news", SpanKind::Producer),
        ("process news", SpanKind::Consumer),
    ] {
        let destination = text(find(&spans, name, &kind), "messaging.destination.name");
        assert_eq!(destination.as_deref(), Some("news"), "{name}");
    }
    for running in [worker, events] {
        running.stop().await.unwrap();
    }
    // The queues of broadcast subscriptions and of replies have random names.
    let finished = fixture.metrics.get_finished_metrics().unwrap();
    let all = format!("{finished:?}");
    assert!(!all.contains("lepus.events.") && !all.contains("lepus.reply."));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_and_connections_that_are_lost_are_counted() {
    let fixture = Fixture::new().await;
    let server = Server::new(&fixture.connection).serve(PricesServer::new(PricesService));
    let server = server.start().await.unwrap();
    let prices = PricesClient::new(&fixture.connection);
    let (sent, trace) = in_trace(async { prices.stuck().send().await }).await;
    drop(sent.unwrap());
    // The handler is stopped, or the request was not begun and has no span.
    let spans = spans_of(trace, 2).await;
    let call = find(&spans, "prices/stuck", &SpanKind::Client);
    let code = text(call, "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("CANCELLED"));
    let cancelled = "error.type=CANCELLED rpc.method=prices/stuck \
                     rpc.response.status_code=CANCELLED rpc.system.name=lepus";
    let durations = fixture.measured("rpc.client.call.duration");
    assert_eq!(durations[cancelled].0, 1, "{durations:?}");

    let faults = fixture.broker.faults();
    assert_eq!(faults.block(Target::All, "low on memory"), 2);
    let blocked = || fixture.measured("lepus.connection.blocked");
    let sums = |sum: f64| {
        move |it: &BTreeMap<_, (u64, f64)>| {
            it.len() == 2 && it.values().all(|(_, value)| *value == sum)
        }
    };
    eventually("both are blocked", || Some(blocked()).filter(sums(1.0))).await;
    faults.unblock(Target::All);
    eventually("neither is blocked", || Some(blocked()).filter(sums(0.0))).await;
    faults.close(Target::All, "a test");
    let roles = ["publishing", "consuming"].map(|role| format!("lepus.connection.role={role}"));
    let reconnects = || fixture.measured("lepus.connection.reconnects");
    eventually("both are connected again", || {
        let reconnects = reconnects();
        let is_there = |role| reconnects.contains_key(role);
        roles.iter().all(is_there).then_some(())
    })
    .await;
    server.stop().await.unwrap();
}

#[test]
fn the_handles_of_telemetry_can_be_shared() {
    fn assert_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let telemetry = Telemetry::default().without_metrics();
    assert_shared(&telemetry);
    assert_shared(&Arc::new(telemetry));
}
