//! The broker that a connection is connected to.

use std::sync::{PoisonError, RwLock};

use opentelemetry::{KeyValue, StringValue};

use crate::names;

/// Host and port of the broker, as attributes of spans. None before the connection is opened.
#[derive(Debug, Default)]
pub(crate) struct Peer(RwLock<Option<[KeyValue; 2]>>);

impl Peer {
    pub(crate) fn set(&self, host: &str, port: u16) {
        let host = StringValue::from(std::sync::Arc::<str>::from(host));
        let attributes = [
            KeyValue::new(names::NETWORK_PEER_ADDRESS, host),
            KeyValue::new(names::NETWORK_PEER_PORT, i64::from(port)),
        ];
        let mut peer = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *peer = Some(attributes);
    }

    /// Appends the address to attributes, if it is known.
    pub(crate) fn put_attributes(&self, attributes: &mut Vec<KeyValue>) {
        let peer = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some([host, port]) = &*peer {
            attributes.push(host.clone());
            attributes.push(port.clone());
        }
    }
}
