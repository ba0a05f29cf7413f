//! Return types of methods, as their types and not their names decide: a value or a `Result`, and an error
//! that is sent as the method's own one or a [`Status`], which the call fails with.

use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Never;
use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;
use crate::wire::status::Status;
use sealed::EncodeError;
pub(crate) use sealed::EncodedError;

/// The error of a method that returns `Result<T, E>`, on the server: any type that serde can serialize, which
/// is sent as the method's own error, or [`Status`], which is sent as it is.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as the error of a method",
    label = "neither `serde::Serialize` nor `lepus::Status`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]` above it",
    note = "for one of another crate, return `Result<T, lepus::Status>`, or an error of your own"
)]
pub trait MethodError: EncodeError {}

#[diagnostic::do_not_recommend]
impl<E: EncodeError> MethodError for E {}

mod sealed {
    use super::{Bytes, Codec, CodecError, ReplyStatus};

    /// The status and the body of the reply that carries an error.
    #[derive(Debug)]
    pub struct EncodedError {
        pub(crate) status: ReplyStatus,
        pub(crate) body: Bytes,
    }

    /// The part of [`MethodError`](super::MethodError) that the library alone uses and implements.
    pub trait EncodeError {
        fn encode(&self, codec: Codec) -> Result<EncodedError, CodecError>;
    }
}

impl<E: Serialize> EncodeError for E {
    fn encode(&self, codec: Codec) -> Result<EncodedError, CodecError> {
        let (status, body) = (ReplyStatus::Application, codec.encode(self)?);
        Ok(EncodedError { status, body })
    }
}

impl EncodeError for Status {
    fn encode(&self, _: Codec) -> Result<EncodedError, CodecError> {
        let (status, body) = (ReplyStatus::Failed(self.clone()), Bytes::new());
        Ok(EncodedError { status, body })
    }
}

/// The error of a method that returns `Result<T, E>`, at its client.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be received as the error of a method",
    label = "neither `serde::Deserialize` nor `lepus::Status`",
    note = "for a type of your own, write `#[derive(serde::Serialize, serde::Deserialize)]` above it",
    note = "for one of another crate, return `Result<T, lepus::Status>`, or an error of your own"
)]
pub trait ReceivedError {
    /// The `E` of the call's [`CallError<E>`](crate::CallError): the type itself, or [`Never`] for a status.
    type Error: DeserializeOwned;
}

#[diagnostic::do_not_recommend]
impl<E: DeserializeOwned> ReceivedError for E {
    type Error = E;
}

impl ReceivedError for Status {
    type Error = Never;
}

/// The method's own error in a [`Call`](crate::Call) of a method that returns `Result<T, E>`.
pub type OwnError<E> = <E as ReceivedError>::Error;

/// A return type of which a macro asks whether it is a `Result`, also under an alias.
///
/// `<ReturnType<R>>::IS_RESULT` is the constant of this type itself for a `Result`. For all other types it is
/// that of [`PlainReturn`], which has to be in scope.
#[derive(Debug)]
pub struct ReturnType<R>(PhantomData<fn() -> R>);

impl<T, E> ReturnType<Result<T, E>> {
    /// It is a `Result`.
    pub const IS_RESULT: bool = true;
}

/// The constant of a [`ReturnType`] that is not a `Result`.
pub trait PlainReturn {
    /// It is not a `Result`.
    const IS_RESULT: bool = false;
}

impl<R> PlainReturn for ReturnType<R> {}

/// The value and the error of a return type, of which it is known whether it is a `Result`.
pub trait Received<const IS_RESULT: bool> {
    /// The `T` of its [`Call<T, E>`](crate::Call).
    type Value;
    /// The `E` of its [`Call<T, E>`](crate::Call).
    type Error;
}

impl<T> Received<false> for T {
    type Value = T;
    type Error = Never;
}

impl<T, E: ReceivedError> Received<true> for Result<T, E> {
    type Value = T;
    type Error = OwnError<E>;
}
