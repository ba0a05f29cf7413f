//! A message as queues share it: immutable, counted against the memory cap for as
//! long as anything holds it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    id::Name,
    properties::{Properties, Property},
};

/// What a message costs beyond its body and properties: itself, its strings, its
/// allocations.
const OVERHEAD: usize = 256;

/// How much memory messages take, shared by all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) exchange: Name,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
    /// The message's own time to live.
    pub(crate) expiration: Option<Duration>,
    pub(crate) priority: u8,
    charge: Charge,
}

impl Message {
    pub(crate) fn new(
        exchange: Name,
        routing_key: String,
        properties: Properties,
        body: Bytes,
        gauge: &Gauge,
    ) -> Self {
        let bytes = body.len() + properties.as_bytes().len() + routing_key.len() + OVERHEAD;
        Self {
            expiration: expiration(&properties).ok().flatten(),
            priority: properties.octet(Property::Priority).unwrap_or(0),
            exchange,
            routing_key,
            properties,
            body,
            charge: Charge::new(bytes, gauge),
        }
    }

    /// What sending it costs, roughly.
    pub(crate) fn size(&self) -> usize {
        self.charge.bytes
    }
}

/// The `expiration` property in milliseconds; an error holds the text that is no number.
pub(crate) fn expiration(properties: &Properties) -> Result<Option<Duration>, String> {
    let Some(value) = properties.value(Property::Expiration) else {
        return Ok(None);
    };
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .map(|millis| Some(Duration::from_millis(millis)))
        .ok_or_else(|| String::from_utf8_lossy(value).into_owned())
}

#[derive(Debug)]
struct Charge {
    bytes: usize,
    gauge: Gauge,
}

impl Charge {
    fn new(bytes: usize, gauge: &Gauge) -> Self {
        gauge.0.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            gauge: gauge.clone(),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
