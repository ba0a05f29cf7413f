//! Conversion of the values that a user binds with.

use crate::error::Error;

/// A value that can be made into a binding of type `B`: a [`RoutingKey`](crate::events::RoutingKey), a
/// [`Pattern`](crate::events::Pattern), a [`Match`](crate::events::Match) or `()`, which is the
/// [binding](crate::events::Kind::Binding) of the exchange's type.
///
/// It is implemented for all types with a [`TryInto<B>`] whose error is an [`Error`] or becomes one, so
/// for text and for a type of your own that converts to a routing key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a binding of this exchange",
    label = "this exchange is bound with a `{B}`",
    note = "a direct exchange is bound with a `RoutingKey` and a topic exchange with a `Pattern`, each of which may be given as text; a headers exchange is bound with a `Match`, and a fanout exchange with `()`"
)]
pub trait IntoBinding<B> {
    /// Converts the value.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) if it is not a valid key, pattern or match.
    fn into_binding(self) -> Result<B, Error>;
}

#[diagnostic::do_not_recommend]
impl<B, V> IntoBinding<B> for V
where
    V: TryInto<B, Error: Into<Error>>,
{
    fn into_binding(self) -> Result<B, Error> {
        self.try_into().map_err(Into::into)
    }
}
