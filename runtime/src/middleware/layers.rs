//! The layers that are added to a pool, a subscription, a producer or a publisher.

use std::fmt;
use std::sync::Arc;

use super::from_fn::{Around, Middleware};
use super::message::Message;
use super::operation::{Handle, Next};
use super::publication::{Publication, SendPublication};
use crate::policy::verdict::Verdict;
use crate::service::BoxFuture;

/// The layers of a pool or a subscription whose handler is not known yet, the innermost one first. Without any, it
/// allocates nothing.
#[derive(Clone, Default)]
pub(crate) struct MessageLayers(Vec<Arc<dyn Middleware<Message>>>);

impl MessageLayers {
    /// Adds a layer around those that are there already.
    pub(crate) fn add(&mut self, layer: impl Middleware<Message>) {
        self.0.push(Arc::new(layer));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the layers around a handler. `None` if there are none.
    pub(crate) fn around(&self, handler: impl Handle<Message>) -> Option<Next<Message>> {
        let mut layers = self.0.iter().cloned();
        let first = layers.next()?;
        let handler: Arc<dyn Handle<Message>> = Arc::new(handler);
        let innermost = around(first, Next::new(handler));
        Some(layers.fold(innermost, |next, layer| around(layer, next)))
    }
}

fn around<M: Middleware<Message>>(layer: M, next: Next<Message>) -> Next<Message> {
    let around: Arc<dyn Handle<Message>> = Arc::new(Around::of(layer, next));
    Next::new(around)
}

impl Next<Publication> {
    /// Puts a layer around the layers of a producer or a publisher, if it has any yet.
    pub(crate) fn add(layers: &mut Option<Self>, layer: impl Middleware<Publication>) {
        let next = layers
            .take()
            .unwrap_or_else(|| Self::new(Arc::new(SendPublication)));
        *layers = Some(Self::new(Arc::new(Around::of(layer, next))));
    }
}

/// A layer that several pools share.
impl Middleware<Message> for Arc<dyn Middleware<Message>> {
    fn handle(&self, message: Message, next: Next<Message>) -> BoxFuture<Verdict> {
        (**self).handle(message, next)
    }
}

impl fmt::Debug for MessageLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MessageLayers").field(&self.0.len()).finish()
    }
}
