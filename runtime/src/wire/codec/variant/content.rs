//! The content of an enum's variant, serialized without the variant's name.

use serde::Serialize;
use serde::ser::{
    SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleVariant, Serializer,
};

use super::{not_an_enum, only_enums};
use crate::wire::codec::refuse::refuse;

/// Serializes an enum as the content of its variant: a newtype's value, a tuple, a struct, or a
/// unit.
pub(crate) struct VariantContent<'a, T>(pub(crate) &'a T);

impl<T: Serialize> Serialize for VariantContent<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(ContentSerializer(serializer))
    }
}

struct ContentSerializer<S>(S);

impl<S: Serializer> Serializer for ContentSerializer<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeTupleVariant = VariantFields<S::SerializeTuple>;
    type SerializeStructVariant = VariantFields<S::SerializeStruct>;

    only_enums!();

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(self.0)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        length: usize,
    ) -> Result<VariantFields<S::SerializeTuple>, S::Error> {
        self.0.serialize_tuple(length).map(VariantFields)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<VariantFields<S::SerializeStruct>, S::Error> {
        self.0.serialize_struct(variant, length).map(VariantFields)
    }
}

/// Serializes the fields of a variant as those of a plain tuple or struct.
struct VariantFields<P>(P);

impl<P: SerializeTuple> SerializeTupleVariant for VariantFields<P> {
    type Ok = P::Ok;
    type Error = P::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), P::Error> {
        self.0.serialize_element(value)
    }

    fn end(self) -> Result<P::Ok, P::Error> {
        self.0.end()
    }
}

impl<P: SerializeStruct> SerializeStructVariant for VariantFields<P> {
    type Ok = P::Ok;
    type Error = P::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), P::Error> {
        self.0.serialize_field(name, value)
    }

    fn end(self) -> Result<P::Ok, P::Error> {
        self.0.end()
    }
}
