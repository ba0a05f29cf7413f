//! [`Serializer`](serde::Serializer) methods that refuse their value, for serializers that accept
//! only a few kinds of values.

/// Implements the methods of the kinds named, with the associated types of compound kinds. Each
/// method returns the error that `$refused` makes of a description such as "a boolean". The macro
/// calls itself, so `refuse` must be in scope where it is used.
macro_rules! refuse {
    ($refused:path: $($kind:ident)*) => { $(refuse!(@$kind $refused);)* };

    (@bool $refused:path) => { refuse!(@value $refused, "a boolean", serialize_bool(bool)); };
    (@i8 $refused:path) => { refuse!(@value $refused, "a number", serialize_i8(i8)); };
    (@i16 $refused:path) => { refuse!(@value $refused, "a number", serialize_i16(i16)); };
    (@i32 $refused:path) => { refuse!(@value $refused, "a number", serialize_i32(i32)); };
    (@i64 $refused:path) => { refuse!(@value $refused, "a number", serialize_i64(i64)); };
    (@u8 $refused:path) => { refuse!(@value $refused, "a number", serialize_u8(u8)); };
    (@u16 $refused:path) => { refuse!(@value $refused, "a number", serialize_u16(u16)); };
    (@u32 $refused:path) => { refuse!(@value $refused, "a number", serialize_u32(u32)); };
    (@u64 $refused:path) => { refuse!(@value $refused, "a number", serialize_u64(u64)); };
    (@f32 $refused:path) => { refuse!(@value $refused, "a number", serialize_f32(f32)); };
    (@f64 $refused:path) => { refuse!(@value $refused, "a number", serialize_f64(f64)); };
    (@char $refused:path) => { refuse!(@value $refused, "a character", serialize_char(char)); };
    (@str $refused:path) => { refuse!(@value $refused, "text", serialize_str(&str)); };
    (@bytes $refused:path) => { refuse!(@value $refused, "bytes", serialize_bytes(&[u8])); };
    (@none $refused:path) => { refuse!(@value $refused, "an option", serialize_none()); };
    (@unit $refused:path) => { refuse!(@value $refused, "a unit", serialize_unit()); };
    (@unit_struct $refused:path) => {
        refuse!(@value $refused, "a unit struct", serialize_unit_struct(&'static str));
    };
    (@unit_variant $refused:path) => {
        refuse!(@value $refused, "an enum", serialize_unit_variant(&'static str, u32, &'static str));
    };
    (@value $refused:path, $value:literal, $method:ident($($type:ty),*)) => {
        fn $method(self, $(_: $type),*) -> Result<Self::Ok, Self::Error> {
            Err($refused($value))
        }
    };

    (@some $refused:path) => {
        fn serialize_some<T: serde::Serialize + ?Sized>(
            self,
            _: &T,
        ) -> Result<Self::Ok, Self::Error> {
            Err($refused("an option"))
        }
    };
    (@newtype_variant $refused:path) => {
        fn serialize_newtype_variant<T: serde::Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<Self::Ok, Self::Error> {
            Err($refused("an enum"))
        }
    };

    (@seq $refused:path) => {
        refuse!(@compound $refused, "a sequence", serialize_seq(Option<usize>) -> SerializeSeq);
    };
    (@tuple $refused:path) => {
        refuse!(@compound $refused, "a tuple", serialize_tuple(usize) -> SerializeTuple);
    };
    (@tuple_struct $refused:path) => {
        refuse!(@compound $refused, "a struct",
            serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct);
    };
    (@tuple_variant $refused:path) => {
        refuse!(@compound $refused, "an enum",
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant);
    };
    (@map $refused:path) => {
        refuse!(@compound $refused, "a map", serialize_map(Option<usize>) -> SerializeMap);
    };
    (@struct $refused:path) => {
        refuse!(@compound $refused, "a struct", serialize_struct(&'static str, usize) -> SerializeStruct);
    };
    (@struct_variant $refused:path) => {
        refuse!(@compound $refused, "an enum",
            serialize_struct_variant(&'static str, u32, &'static str, usize)
                -> SerializeStructVariant);
    };
    (@compound $refused:path, $value:literal, $method:ident($($type:ty),*) -> $compound:ident) => {
        type $compound = serde::ser::Impossible<Self::Ok, Self::Error>;

        fn $method(self, $(_: $type),*) -> Result<Self::$compound, Self::Error> {
            Err($refused($value))
        }
    };
}
pub(crate) use refuse;
