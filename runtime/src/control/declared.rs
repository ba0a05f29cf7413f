//! The queues, exchanges and bindings that an instance declares, as it describes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::link::{self, Connection, QueueCounts};
use crate::wire::name::Name;
use crate::wire::topology::{
    Binding, Destination, Exchange, ExchangeKind, QUEUE_TYPE, Queue, QueueKind, Topology,
};
use crate::wire::value::{Table, Value};

/// The exchanges, queues and bindings that an instance declares for what it serves. Names are without the namespace. A
/// queue or exchange that it uses as it is (passive) is left out, and so are the queues of delays, which are declared
/// when they are needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeclaredTopology {
    /// The exchanges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<DeclaredExchange>,
    /// The queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<DeclaredQueue>,
    /// The bindings with which it was started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<DeclaredBinding>,
}

/// A queue as it is declared (`queue.declare`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeclaredQueue {
    /// The name, without the namespace.
    pub name: String,
    /// Whether it outlives a restart of the broker.
    pub durable: bool,
    /// The arguments, such as `x-queue-type`.
    pub arguments: BTreeMap<String, DeclaredArgument>,
}

/// An exchange as it is declared (`exchange.declare`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeclaredExchange {
    /// The name, without the namespace.
    pub name: String,
    /// `direct`, `fanout`, `topic` or `headers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it outlives a restart of the broker.
    pub durable: bool,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether only other exchanges can publish to it.
    pub internal: bool,
    /// The arguments, such as `alternate-exchange`.
    pub arguments: BTreeMap<String, DeclaredArgument>,
}

/// A binding as it is declared (`queue.bind`, `exchange.bind`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeclaredBinding {
    /// The exchange whose messages it routes.
    pub exchange: String,
    /// The queue that gets them; empty if an exchange does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue: String,
    /// The exchange that gets them; empty if a queue does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to_exchange: String,
    /// The routing key or the pattern.
    pub key: String,
    /// The headers of a binding to a headers exchange, as texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum DeclaredArgument {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// A text; also that of a value of another type, as people read it.
    Text(String),
}

impl DeclaredQueue {
    /// Whether the broker has this queue with these properties: it is declared passively, which tells whether it exists,
    /// and then as it is described, which RabbitMQ refuses if it differs, and which changes nothing if it does not.
    /// If the queue is deleted between the two, it is made anew.
    ///
    /// A queue that exists as a quorum queue, and is described as a classic one, is no difference, because programs of
    /// Lepus use it as it is.
    ///
    /// # Errors
    /// The broker's 404 (in [`amqp_code`](Error::amqp_code)) if there is no such queue, and its 406 if it differs, with
    /// the argument and both values in its text. A name that is none is [`is_invalid`](Error::is_invalid).
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing has changed.
    pub async fn verify(&self, connection: &Connection) -> Result<QueueCounts, Error> {
        let mut queue = Queue::new(Name::parse(self.name.as_str())?);
        queue.durable = self.durable;
        queue.arguments = table(&self.arguments);
        if queue.arguments.get(QUEUE_TYPE).and_then(Value::as_str) == Some("quorum") {
            queue.kind = QueueKind::Quorum;
        }
        let (session, namespace) = (
            connection.consuming().session().await?,
            connection.namespace(),
        );
        let counts = link::count(&session, &queue, namespace).await?;
        link::declare(&session, &Topology::queue(queue), namespace).await?;
        Ok(counts)
    }
}

impl DeclaredExchange {
    /// Whether the broker has this exchange with these properties, as [`DeclaredQueue::verify`] finds it out.
    ///
    /// # Errors
    /// The broker's 404 if there is no such exchange, and its 406 if it differs. A name or a type that is none is
    /// [`is_invalid`](Error::is_invalid).
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing has changed.
    pub async fn verify(&self, connection: &Connection) -> Result<(), Error> {
        let kind = ExchangeKind::parse(&self.kind)
            .ok_or_else(|| Error::invalid(format!("`{}` is no type of an exchange", self.kind)))?;
        let mut exchange = Exchange::new(Name::parse(self.name.as_str())?, kind);
        exchange.durable = self.durable;
        exchange.auto_delete = self.auto_delete;
        exchange.internal = self.internal;
        exchange.arguments = table(&self.arguments);
        let (session, namespace) = (
            connection.consuming().session().await?,
            connection.namespace(),
        );
        for is_passive in [true, false] {
            exchange.passive = is_passive;
            let topology = Topology {
                exchanges: vec![exchange.clone()],
                ..Topology::default()
            };
            link::declare(&session, &topology, namespace).await?;
        }
        Ok(())
    }
}

impl DeclaredTopology {
    pub(super) fn is_empty(&self) -> bool {
        self.exchanges.is_empty() && self.queues.is_empty() && self.bindings.is_empty()
    }
}

impl From<&Topology> for DeclaredTopology {
    fn from(topology: &Topology) -> Self {
        let exchanges = topology.exchanges.iter().filter(|it| !it.passive);
        let queues = topology.queues.iter().filter(|it| !it.passive);
        Self {
            exchanges: exchanges.map(DeclaredExchange::from).collect(),
            queues: queues.map(DeclaredQueue::from).collect(),
            bindings: topology
                .bindings
                .iter()
                .map(DeclaredBinding::from)
                .collect(),
        }
    }
}

impl From<&Queue> for DeclaredQueue {
    fn from(queue: &Queue) -> Self {
        Self {
            name: queue.name.to_string(),
            durable: queue.durable,
            arguments: arguments(&queue.arguments),
        }
    }
}

impl From<&Exchange> for DeclaredExchange {
    fn from(exchange: &Exchange) -> Self {
        Self {
            name: exchange.name.to_string(),
            kind: exchange.kind.as_str().to_owned(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: arguments(&exchange.arguments),
        }
    }
}

impl From<&Binding> for DeclaredBinding {
    fn from(binding: &Binding) -> Self {
        let (queue, to_exchange) = match &binding.destination {
            Destination::Queue(name) => (name.to_string(), String::new()),
            Destination::Exchange(name) => (String::new(), name.to_string()),
        };
        let arguments = binding.arguments.iter();
        Self {
            exchange: binding.exchange.to_string(),
            queue,
            to_exchange,
            key: binding.routing_key.clone(),
            arguments: arguments
                .map(|(name, value)| (name.clone(), value.to_string()))
                .collect(),
        }
    }
}

fn arguments(table: &Table) -> BTreeMap<String, DeclaredArgument> {
    let argument = |value: &Value| match value {
        Value::Bool(value) => DeclaredArgument::Bool(*value),
        Value::Int(value) => DeclaredArgument::Int(*value),
        Value::Float(value) => DeclaredArgument::Float(*value),
        other => DeclaredArgument::Text(other.to_string()),
    };
    let arguments = table.iter();
    arguments
        .map(|(name, value)| (name.clone(), argument(value)))
        .collect()
}

fn table(arguments: &BTreeMap<String, DeclaredArgument>) -> Table {
    let value = |argument: &DeclaredArgument| match argument {
        DeclaredArgument::Bool(value) => Value::Bool(*value),
        DeclaredArgument::Int(value) => Value::Int(*value),
        DeclaredArgument::Float(value) => Value::Float(*value),
        DeclaredArgument::Text(value) => Value::Text(value.clone()),
    };
    let arguments = arguments.iter();
    arguments
        .map(|(name, argument)| (name.clone(), value(argument)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::Codec;

    #[test]
    fn a_declaration_is_described_and_read_again() {
        let name = |name: &str| Name::parse(name).unwrap();
        let mut exchange = Exchange::new(name("orders"), ExchangeKind::Topic);
        exchange.durable = false;
        let passive = Exchange {
            passive: true,
            ..Exchange::new(name("others"), ExchangeKind::Fanout)
        };
        let queue = Queue::new(name("orders.audit"))
            .kind(QueueKind::Quorum)
            .delivery_limit(20)
            .single_active_consumer();
        let topology = Topology {
            exchanges: vec![exchange, passive],
            queues: vec![queue.clone(), Queue::new(name("plain")).passive()],
            bindings: vec![Binding {
                exchange: name("orders"),
                destination: Destination::Queue(name("orders.audit")),
                routing_key: "order.*".to_owned(),
                arguments: Table::new(),
            }],
        };
        let described = DeclaredTopology::from(&topology);
        let json = Codec::Json.encode(&described).unwrap();
        let text = std::str::from_utf8(&json).unwrap();
        assert_eq!(
            text,
            r#"{"exchanges":[{"name":"orders","type":"topic","durable":false,"auto_delete":false,"internal":false,"arguments":{}}],"queues":[{"name":"orders.audit","durable":true,"arguments":{"x-delivery-limit":20,"x-queue-type":"quorum","x-single-active-consumer":true}}],"bindings":[{"exchange":"orders","queue":"orders.audit","key":"order.*"}]}"#
        );
        let read: DeclaredTopology = Codec::Json.decode(&json).unwrap();
        assert_eq!(read, described);
        assert_eq!(table(&read.queues[0].arguments), queue.arguments);
    }
}
