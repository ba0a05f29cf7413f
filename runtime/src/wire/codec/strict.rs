//! A serializer around another one. It refuses values that the format would write as another value, so that
//! the receiver would decode something else:
//!
//! - `Some(None)`, and `Some` of a value without content such as `Some(())`: JSON's `null` and
//!   MessagePack's nil are read as `None`.
//! - In JSON, a floating-point number that is not finite: serde_json writes `null`, which does not
//!   decode as a number.

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Whether a format can write NaN and the infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floats {
    Any,
    Finite,
}

/// A value that is serialized under these rules, with all values inside of it.
pub(super) struct Checked<'a, T: ?Sized> {
    value: &'a T,
    rules: Rules,
}

impl<'a, T: ?Sized> Checked<'a, T> {
    pub(super) fn new(value: &'a T, floats: Floats) -> Self {
        let position = Position::Other;
        let rules = Rules { floats, position };
        Self { value, rules }
    }
}

impl<T: Serialize + ?Sized> Serialize for Checked<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Strict {
            inner: serializer,
            rules: self.rules,
        })
    }
}

#[derive(Clone, Copy)]
struct Rules {
    floats: Floats,
    position: Position,
}

/// The position of a value, as far as the rules depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Directly inside a `Some`.
    Some,
    /// Directly inside a `Some`, and of a type without a size, which has only one value and is written as
    /// null.
    ///
    /// `serde_json::Value::Null` has a size and is accepted there, although it is written as null as well:
    /// programs that forward JSON keep it in an `Option`, and mean `None`.
    SomeUnit,
    Other,
}

struct Strict<S> {
    inner: S,
    rules: Rules,
}

impl<S: Serializer> Strict<S> {
    fn float(&self, value: f64) -> Result<(), S::Error> {
        if self.rules.floats == Floats::Finite && !value.is_finite() {
            return Err(S::Error::custom(format_args!(
                "{value} is not a number that JSON can write"
            )));
        }
        Ok(())
    }

    fn nothing(&self, is_refused: bool, value: &str) -> Result<(), S::Error> {
        if is_refused {
            return Err(S::Error::custom(format_args!(
                "Some({value}) would be read as None"
            )));
        }
        Ok(())
    }

    fn parts<P>(
        self,
        begin: impl FnOnce(S) -> Result<P, S::Error>,
    ) -> Result<StrictParts<P>, S::Error> {
        let floats = self.rules.floats;
        begin(self.inner).map(|inner| StrictParts { inner, floats })
    }
}

macro_rules! forward {
    ($($method:ident: $type:ty),* $(,)?) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<S: Serializer> Serializer for Strict<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = StrictParts<S::SerializeSeq>;
    type SerializeTuple = StrictParts<S::SerializeTuple>;
    type SerializeTupleStruct = StrictParts<S::SerializeTupleStruct>;
    type SerializeTupleVariant = StrictParts<S::SerializeTupleVariant>;
    type SerializeMap = StrictParts<S::SerializeMap>;
    type SerializeStruct = StrictParts<S::SerializeStruct>;
    type SerializeStructVariant = StrictParts<S::SerializeStructVariant>;

    forward! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.float(value.into())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.float(value)?;
        self.inner.serialize_f64(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.nothing(self.rules.position != Position::Other, "None")?;
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let position = match size_of_val(value) {
            0 => Position::SomeUnit,
            _ => Position::Some,
        };
        let floats = self.rules.floats;
        let rules = Rules { floats, position };
        self.inner.serialize_some(&Checked { value, rules })
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.nothing(self.rules.position == Position::SomeUnit, "()")?;
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.nothing(self.rules.position == Position::SomeUnit, name)?;
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        // Its value stands in its position.
        let rules = self.rules;
        self.inner
            .serialize_newtype_struct(name, &Checked { value, rules })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked::new(value, self.rules.floats);
        self.inner
            .serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.parts(|inner| inner.serialize_seq(length))
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.parts(|inner| inner.serialize_tuple(length))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.parts(|inner| inner.serialize_tuple_struct(name, length))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.parts(|inner| inner.serialize_tuple_variant(name, index, variant, length))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.parts(|inner| inner.serialize_map(length))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.parts(|inner| inner.serialize_struct(name, length))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.parts(|inner| inner.serialize_struct_variant(name, index, variant, length))
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The parts of a sequence, map or struct, each under the same rules.
struct StrictParts<P> {
    inner: P,
    floats: Floats,
}

macro_rules! elements {
    ($($trait:ident: $method:ident),* $(,)?) => {$(
        impl<P: $trait> $trait for StrictParts<P> {
            type Ok = P::Ok;
            type Error = P::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), P::Error> {
                self.inner.$method(&Checked::new(value, self.floats))
            }

            fn end(self) -> Result<P::Ok, P::Error> {
                self.inner.end()
            }
        }
    )*};
}

elements! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

macro_rules! fields {
    ($($trait:ident),* $(,)?) => {$(
        impl<P: $trait> $trait for StrictParts<P> {
            type Ok = P::Ok;
            type Error = P::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), P::Error> {
                let value = Checked::new(value, self.floats);
                self.inner.serialize_field(name, &value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), P::Error> {
                self.inner.skip_field(name)
            }

            fn end(self) -> Result<P::Ok, P::Error> {
                self.inner.end()
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

impl<P: SerializeMap> SerializeMap for StrictParts<P> {
    type Ok = P::Ok;
    type Error = P::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), P::Error> {
        self.inner.serialize_key(&Checked::new(key, self.floats))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), P::Error> {
        self.inner
            .serialize_value(&Checked::new(value, self.floats))
    }

    fn serialize_entry<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &T,
    ) -> Result<(), P::Error> {
        let (key, value) = (
            Checked::new(key, self.floats),
            Checked::new(value, self.floats),
        );
        self.inner.serialize_entry(&key, &value)
    }

    fn end(self) -> Result<P::Ok, P::Error> {
        self.inner.end()
    }
}
