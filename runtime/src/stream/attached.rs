//! The opened stream of a call, which its reply passes through the layers of the client.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A value of the client that a reply carries, to be taken once. Layers may clone a reply.
#[derive(Clone)]
pub(crate) struct Attached(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

impl Attached {
    pub(crate) fn new<T: Send + 'static>(value: T) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(value)))))
    }

    /// Takes the value. `None` if it was taken before.
    pub(crate) fn take<T: 'static>(&self) -> Option<Box<T>> {
        lock(&self.0).take()?.downcast().ok()
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attached")
    }
}
