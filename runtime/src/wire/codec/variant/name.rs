//! The name of an enum's variant.

use serde::Serialize;
use serde::ser::{SerializeStructVariant, SerializeTupleVariant, Serializer};

use super::{NotAnEnum, not_an_enum, only_enums};
use crate::wire::codec::refuse::refuse;

/// Returns the name that serde gives the variant.
pub(crate) fn name<T: Serialize>(value: &T) -> Result<&'static str, NotAnEnum> {
    value.serialize(NameSerializer)
}

struct NameSerializer;

impl Serializer for NameSerializer {
    type Ok = &'static str;
    type Error = NotAnEnum;
    type SerializeTupleVariant = IgnoredFields;
    type SerializeStructVariant = IgnoredFields;

    only_enums!();

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<&'static str, NotAnEnum> {
        Ok(variant)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<&'static str, NotAnEnum> {
        Ok(variant)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<IgnoredFields, NotAnEnum> {
        Ok(IgnoredFields(variant))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<IgnoredFields, NotAnEnum> {
        Ok(IgnoredFields(variant))
    }
}

/// Ignores the fields of a variant, and returns its name.
struct IgnoredFields(&'static str);

impl SerializeTupleVariant for IgnoredFields {
    type Ok = &'static str;
    type Error = NotAnEnum;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), NotAnEnum> {
        Ok(())
    }

    fn end(self) -> Result<&'static str, NotAnEnum> {
        Ok(self.0)
    }
}

impl SerializeStructVariant for IgnoredFields {
    type Ok = &'static str;
    type Error = NotAnEnum;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        _: &'static str,
        _: &T,
    ) -> Result<(), NotAnEnum> {
        Ok(())
    }

    fn end(self) -> Result<&'static str, NotAnEnum> {
        Ok(self.0)
    }
}
