//! A virtual host: the names of exchanges and queues in it.

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
    /// A host with the exchanges that always exist. The default exchange is none of
    /// them: it routes by queue name and takes no bindings.
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
