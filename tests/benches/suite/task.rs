//! The task of one process: its argument, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contender {
    Naive,
    /// Naive, with jobs and events that say as much as Lepus's do.
    NaiveInFull,
    Tuned,
    /// Tuned, with requests that say as much as Lepus's do.
    TunedInFull,
    Lepus,
    LepusCoalesced,
    /// Lepus with its I/O task on the runtime of its user.
    LepusShared,
    /// Lepus with a layer that does nothing around its client and its server.
    LepusLayered,
    /// Lepus with a trace header that its caller sets, and no spans.
    LepusHeader,
    /// Lepus with spans for OpenTelemetry that nobody exports.
    LepusTraced,
    /// Lepus with spans that are made with a tracer of OpenTelemetry, which nobody exports either.
    LepusTracer,
    LepusCoalescedHeader,
    LepusCoalescedTraced,
    LepusCoalescedTracer,
    Amqprs,
    Tarpc,
    Nats,
    /// Measured with streams only.
    Tonic,
}

impl Contender {
    pub fn label(self) -> &'static str {
        match self {
            Contender::Naive => "naive lapin",
            Contender::NaiveInFull => "naive lapin, in full",
            Contender::Tuned => "tuned lapin",
            Contender::TunedInFull => "tuned lapin, in full",
            Contender::Lepus => "Lepus",
            Contender::LepusCoalesced => "Lepus coalesced",
            Contender::LepusShared => "Lepus, Io::Shared",
            Contender::LepusLayered => "Lepus, one layer",
            Contender::LepusHeader => "Lepus, a header",
            Contender::LepusTraced => "Lepus, traced",
            Contender::LepusTracer => "Lepus, traced by a tracer",
            Contender::LepusCoalescedHeader => "Lepus coalesced, a header",
            Contender::LepusCoalescedTraced => "Lepus coalesced, traced",
            Contender::LepusCoalescedTracer => "Lepus coalesced, traced by a tracer",
            Contender::Amqprs => "amqprs",
            Contender::Tarpc => "tarpc (no broker)",
            Contender::Nats => "NATS",
            Contender::Tonic => "tonic (no broker)",
        }
    }
}

/// The way in which the spans of Lepus are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spans {
    /// By `tracing-opentelemetry`.
    Layer,
    /// With a tracer.
    Tracer,
}

impl Contender {
    /// Lepus: whether its calls share messages.
    pub fn is_coalesced(self) -> bool {
        matches!(
            self,
            Self::LepusCoalesced
                | Self::LepusCoalescedHeader
                | Self::LepusCoalescedTraced
                | Self::LepusCoalescedTracer
        )
    }

    /// Lepus: whether its calls have a trace that their caller sets.
    pub fn has_header(self) -> bool {
        matches!(self, Self::LepusHeader | Self::LepusCoalescedHeader)
    }

    /// Lepus: how its spans are made, if it has some.
    pub fn spans(self) -> Option<Spans> {
        match self {
            Self::LepusTraced | Self::LepusCoalescedTraced => Some(Spans::Layer),
            Self::LepusTracer | Self::LepusCoalescedTracer => Some(Spans::Tracer),
            _ => None,
        }
    }

    pub fn is_lepus(self) -> bool {
        self.is_coalesced()
            || self.has_header()
            || self.spans().is_some()
            || matches!(self, Self::Lepus | Self::LepusShared | Self::LepusLayered)
    }
}

/// The kind of work that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A call and its reply.
    Rpc,
    /// Calls in this process, over the encoded bytes and without a broker.
    Local,
    /// A handler by itself, for what there is to compare `Local` with.
    Handler,
    /// Confirmed persistent jobs, a long batch behind one another.
    PushAll,
    /// Confirmed persistent jobs, each awaited by its own task.
    Push,
    /// Jobs taken, done and acknowledged.
    Consume,
    /// An event from its publish to its subscriber.
    Events {
        /// The publish awaits the broker's confirm.
        confirmed: bool,
    },
    /// Calls to all the methods of one service.
    Methods(usize),
    /// Calls to as many services.
    Services(usize),
    /// The memory of calls that wait for their reply.
    Waiting(usize),
    /// Items of a stream.
    Stream {
        window: u32,
        /// Other streams that are open on the same connections, and at rest.
        others: usize,
    },
    /// The memory of streams at rest.
    StreamsAtRest(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Broker,
    Server,
    Client,
}

/// The amount of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Operations at once.
    pub flight: usize,
    pub prefetch: u16,
    /// Bytes.
    pub payload: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case {
            flight,
            prefetch,
            payload,
        } = self;
        write!(f, "{flight} in flight, prefetch {prefetch}, ")?;
        match payload {
            0..1024 => write!(f, "{payload} B"),
            _ => write!(f, "{} KiB", payload / 1024),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub role: Role,
    pub work: Work,
    pub contender: Contender,
    pub case: Case,
    pub time: Duration,
    /// The address of the broker, or for a client without one, of its server.
    pub address: String,
    /// Before the name of every queue and exchange.
    pub namespace: String,
    pub server: Option<u32>,
    pub broker: Option<u32>,
}

impl Task {
    pub fn payload(&self) -> Vec<u8> {
        vec![7; self.case.payload]
    }

    /// A name on the broker, as Lepus makes it of its namespace.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }
}
