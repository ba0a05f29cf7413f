//! Typed values that travel with a context inside a process, one of each type.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

type Values = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Values by their types. Without any, it allocates nothing.
#[derive(Clone, Default)]
pub(crate) struct Extensions(Option<Box<Values>>);

impl Extensions {
    /// Adds a value, in place of an earlier one of the same type.
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let values = self.0.get_or_insert_default();
        values.insert(TypeId::of::<T>(), Arc::new(value));
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |values| values.len());
        f.debug_struct("Extensions").field("count", &count).finish()
    }
}
