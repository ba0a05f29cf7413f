//! The name of a value's variant.

use serde::Serialize;
use serde::ser::{Impossible, SerializeStructVariant, SerializeTupleVariant, Serializer};

use super::{NoVariant, no_enum};

/// The variant's name, as serde has it.
pub(crate) fn name<T: Serialize>(value: &T) -> Result<&'static str, NoVariant> {
    value.serialize(Namer)
}

struct Namer;

type No = Impossible<&'static str, NoVariant>;

impl Serializer for Namer {
    type Ok = &'static str;
    type Error = NoVariant;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = Named;
    type SerializeMap = No;
    type SerializeStruct = No;
    type SerializeStructVariant = Named;

    no_enum!();

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<&'static str, NoVariant> {
        Ok(variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<&'static str, NoVariant> {
        Ok(variant)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Named, NoVariant> {
        Ok(Named(variant))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Named, NoVariant> {
        Ok(Named(variant))
    }
}

/// The name is known; the fields are of no interest.
struct Named(&'static str);

impl SerializeTupleVariant for Named {
    type Ok = &'static str;
    type Error = NoVariant;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), NoVariant> {
        Ok(())
    }

    fn end(self) -> Result<&'static str, NoVariant> {
        Ok(self.0)
    }
}

impl SerializeStructVariant for Named {
    type Ok = &'static str;
    type Error = NoVariant;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoVariant> {
        Ok(())
    }

    fn end(self) -> Result<&'static str, NoVariant> {
        Ok(self.0)
    }
}
