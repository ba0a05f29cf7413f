//! Virtual host: its exchanges, and the names of its queues.

use std::collections::BTreeMap;

use crate::{
    exchange::{Exchange, Kind},
    id::{Name, QueueId},
};

#[derive(Debug)]
pub(crate) struct Vhost {
    pub(crate) name: Name,
    pub(crate) exchanges: BTreeMap<Name, Exchange>,
    pub(crate) queues: BTreeMap<Name, QueueId>,
}

impl Vhost {
    /// Makes a virtual host with the predeclared exchanges, except for the default exchange, which
    /// routes by queue name and has no bindings.
    pub(crate) fn new(name: Name) -> Self {
        let exchanges = [
            ("amq.direct", Kind::Direct),
            ("amq.fanout", Kind::Fanout),
            ("amq.topic", Kind::Topic),
            ("amq.headers", Kind::Headers),
            ("amq.match", Kind::Headers),
        ]
        .into_iter()
        .map(|(name, kind)| (Name::from(name), Exchange::new(name.into(), kind)))
        .chain([(Name::from("amq.rabbitmq.trace"), trace())])
        .collect();
        Self {
            name,
            exchanges,
            queues: BTreeMap::new(),
        }
    }
}

fn trace() -> Exchange {
    let mut exchange = Exchange::new("amq.rabbitmq.trace".into(), Kind::Topic);
    exchange.internal = true;
    exchange
}
