//! The instance that a connection is to others, and the list of what it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::answer::{EndpointDetails, EndpointInfo, ServedKind};
use super::declared::DeclaredTopology;
use crate::clock;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::link::Connection;
use crate::meter::Meter;
use crate::random;
use crate::stats::HandlerKind;
use crate::sync::lock;
use crate::wire::codec::Codec;
use crate::wire::envelope;
use crate::wire::topology::Topology;
use crate::worker::ConsumerView;

/// The version of what has none.
const NO_VERSION: &str = "0.0.0";

/// A service, work queue, set of tasks or group that a connection serves.
#[derive(Debug)]
pub(crate) struct Served {
    pub(super) kind: ServedKind,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: String,
    pub(super) endpoints: Vec<Endpoint>,
    /// The queues, exchanges and bindings that are declared for it.
    pub(super) topology: DeclaredTopology,
    /// The queues that it consumes, without the namespace.
    queues: Vec<String>,
    pub(super) consumers: Vec<ConsumerView>,
    pub(super) started: String,
}

/// A method, a task, or the handler of a queue.
pub(super) struct Endpoint {
    pub(super) info: EndpointInfo,
    /// The figures of its requests, jobs or events.
    pub(super) meter: Arc<Meter>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl Served {
    /// A service with these consumers of its queues.
    pub(crate) fn service(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        consumers: &[ConsumerView],
    ) -> Self {
        let methods = descriptor.methods().iter();
        let own = methods.filter_map(MethodDescriptor::own_queue);
        let queues: BTreeSet<&str> = [descriptor.queue_name()].into_iter().chain(own).collect();
        let (queue, codec) = (descriptor.queue_name(), descriptor.default_codec());
        Self {
            queues: queues.into_iter().map(str::to_owned).collect(),
            endpoints: methods_of(descriptor, (queue, codec), |method| {
                let (kind, service) = (HandlerKind::Request, descriptor.name());
                connection.meters().of(kind, service, method)
            }),
            ..Self::described(ServedKind::Service, descriptor, queue, consumers)
        }
    }

    /// A set of tasks, whose jobs are in this queue.
    pub(crate) fn tasks(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
        (queue, codec): (&str, Codec),
        consumers: &[ConsumerView],
    ) -> Self {
        Self {
            endpoints: methods_of(descriptor, (queue, codec), |method| {
                connection.meters().of(HandlerKind::Job, queue, method)
            }),
            ..Self::described(ServedKind::Tasks, descriptor, queue, consumers)
        }
    }

    /// A plain work queue.
    pub(crate) fn queue(
        connection: &Connection,
        (queue, codec): (&str, Codec),
        consumers: &[ConsumerView],
    ) -> Self {
        let meter = connection.meters().of(HandlerKind::Job, queue, "");
        let endpoint = handler_of(queue, queue, codec, meter);
        Self::new(ServedKind::Queue, queue, queue, consumers).with(endpoint)
    }

    /// The group of this queue, which shares the events of an exchange.
    pub(crate) fn group(
        connection: &Connection,
        exchange: &str,
        (queue, codec): (&str, Codec),
        consumers: &[ConsumerView],
    ) -> Self {
        let meter = connection.meters().of(HandlerKind::Event, queue, "");
        let endpoint = handler_of(queue, exchange, codec, meter);
        Self::new(ServedKind::Group, queue, queue, consumers).with(endpoint)
    }

    fn new(kind: ServedKind, name: &str, queue: &str, consumers: &[ConsumerView]) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            version: NO_VERSION.to_owned(),
            description: String::new(),
            endpoints: Vec::new(),
            topology: DeclaredTopology::default(),
            queues: vec![queue.to_owned()],
            consumers: consumers.to_vec(),
            started: clock::rfc3339_now(),
        }
    }

    fn described(
        kind: ServedKind,
        descriptor: &ServiceDescriptor,
        queue: &str,
        consumers: &[ConsumerView],
    ) -> Self {
        let version = descriptor.service_version().unwrap_or(NO_VERSION);
        Self {
            version: version.to_owned(),
            description: first_paragraph(descriptor.documentation()),
            ..Self::new(kind, descriptor.name(), queue, consumers)
        }
    }

    fn with(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds what is declared for it.
    #[must_use]
    pub(crate) fn declared_by(mut self, topology: &Topology) -> Self {
        let DeclaredTopology {
            exchanges,
            queues,
            bindings,
        } = topology.into();
        self.topology.exchanges.extend(exchanges);
        self.topology.queues.extend(queues);
        self.topology.bindings.extend(bindings);
        self
    }

    /// The routing keys of questions about it.
    fn keys(&self) -> impl Iterator<Item = String> {
        let service = (self.kind == ServedKind::Service).then(|| envelope::service_key(&self.name));
        let queues = self.queues.iter().map(|queue| envelope::queue_key(queue));
        service.into_iter().chain(queues)
    }

    /// Whether a question with this routing key on the control exchange is about it.
    pub(super) fn is_meant_by(&self, routing_key: &str) -> bool {
        routing_key == envelope::ALL || self.keys().any(|key| key == routing_key)
    }
}

/// The endpoints of methods or tasks. `queue` is that of the methods that have none of their own.
fn methods_of(
    descriptor: &ServiceDescriptor,
    (queue, codec): (&str, Codec),
    meter: impl Fn(&str) -> Arc<Meter>,
) -> Vec<Endpoint> {
    let endpoints = descriptor.methods().iter().map(|method| {
        let queue = method.own_queue().unwrap_or(queue);
        Endpoint {
            info: EndpointInfo {
                name: method.name().to_owned(),
                subject: queue.to_owned(),
                queue_group: queue.to_owned(),
                data: details(method, codec),
            },
            meter: meter(method.name()),
        }
    });
    endpoints.collect()
}

/// The endpoint that stands for the handler of jobs or events without methods.
fn handler_of(queue: &str, subject: &str, codec: Codec, meter: Arc<Meter>) -> Endpoint {
    let info = EndpointInfo {
        name: queue.to_owned(),
        subject: subject.to_owned(),
        queue_group: queue.to_owned(),
        data: EndpointDetails {
            codec: codec.content_type().to_owned(),
            ..EndpointDetails::default()
        },
    };
    Endpoint { info, meter }
}

/// The directions of a method's streams.
fn streams(method: &MethodDescriptor) -> Option<&'static str> {
    match (method.is_stream(), method.is_upload()) {
        (false, false) => None,
        (true, false) => Some("server"),
        (false, true) => Some("upload"),
        (true, true) => Some("both"),
    }
}

fn details(method: &MethodDescriptor, codec: Codec) -> EndpointDetails {
    EndpointDetails {
        doc: method.documentation().trim().to_owned(),
        codec: codec.content_type().to_owned(),
        arguments: method
            .argument_names()
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
        timeout_ms: method.timeout().map(whole_millis),
        idempotent: method.is_idempotent(),
        oneway: method.is_oneway(),
        at_most_once: method.is_at_most_once(),
        bare: method.is_bare(),
        stream: streams(method).map(str::to_owned),
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(clock::whole_millis(duration)).unwrap_or(u64::MAX)
}

/// The first paragraph of a doc comment, in one line.
fn first_paragraph(doc: &str) -> String {
    let lines = doc.trim().lines().map(str::trim);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// The identity of a connection, and what it serves.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    /// By a number, in the order in which they were started.
    served: watch::Sender<BTreeMap<u64, Arc<Served>>>,
    next: Mutex<u64>,
    /// Whether the task of the control queue was started.
    pub(super) is_started: AtomicBool,
}

impl Instance {
    pub(super) fn of(connection: &Connection) -> Arc<Self> {
        connection.shared(|| Self {
            id: random::identity(),
            served: watch::Sender::new(BTreeMap::new()),
            next: Mutex::new(0),
            is_started: AtomicBool::new(false),
        })
    }

    /// Adds what is served. Returns its number, by which it is removed.
    pub(super) fn add(&self, served: Served) -> u64 {
        let mut next = lock(&self.next);
        let number = *next;
        *next += 1;
        self.served.send_modify(|all| {
            all.insert(number, Arc::new(served));
        });
        number
    }

    pub(super) fn remove(&self, number: u64) {
        self.served.send_modify(|all| {
            all.remove(&number);
        });
    }

    /// All that is served, to read or to wait on.
    pub(super) fn watch(&self) -> watch::Receiver<BTreeMap<u64, Arc<Served>>> {
        self.served.subscribe()
    }

    pub(super) fn served(&self) -> Vec<Arc<Served>> {
        self.served.borrow().values().cloned().collect()
    }

    /// The routing keys of questions about what is served, without that of questions to all; empty if nothing is.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        let served = self.served.borrow();
        served.values().flat_map(|served| served.keys()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meters;

    const METHODS: &[MethodDescriptor] = &[
        MethodDescriptor::new(0, "fib").timeout_millis(1500),
        MethodDescriptor::new(1, "note").oneway().queue("notes"),
    ];
    static SERVICE: ServiceDescriptor =
        ServiceDescriptor::new("calculator", METHODS).doc(" Sums.\n And more.\n\n Long.");

    #[test]
    fn a_question_is_about_a_service_or_a_queue_or_all() {
        let mut service = Served::described(ServedKind::Service, &SERVICE, "calculator", &[]);
        service.queues.push("notes".to_owned());
        assert_eq!(service.description, "Sums. And more.");
        for key in [
            "all",
            "service.calculator",
            "queue.calculator",
            "queue.notes",
        ] {
            assert!(service.is_meant_by(key), "{key}");
        }
        for key in ["service.notes", "queue.resize", "service.calculators", ""] {
            assert!(!service.is_meant_by(key), "{key}");
        }
        let queue = Served::new(ServedKind::Queue, "resize", "resize", &[]);
        assert!(queue.is_meant_by("queue.resize") && !queue.is_meant_by("service.resize"));
    }

    #[test]
    fn an_endpoint_has_the_queue_of_its_own() {
        let meters = Meters::default();
        let meter = |method: &str| meters.of(HandlerKind::Request, "calculator", method);
        let endpoints = methods_of(&SERVICE, ("calculator", Codec::Json), meter);
        let [fib, note] = &endpoints[..] else {
            panic!("{endpoints:?}");
        };
        assert_eq!(
            (&*fib.info.subject, fib.info.data.timeout_ms),
            ("calculator", Some(1500))
        );
        assert_eq!(
            (&*note.info.subject, note.info.data.oneway),
            ("notes", true)
        );
    }
}
