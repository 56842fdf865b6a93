//! Strings, numbers, objects and counts as they stand on the wire, stricter than serde's own.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer};

use crate::decode::MAX_COUNTS;

/// A string, borrowed unless it holds escapes.
pub struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v.to_owned()))
            }
            fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(v))
            }
        }
        d.deserialize_str(V).map(Str)
    }
}

/// A non-negative integer. `1.0` is one, as JSON Schema says; what is outside u64 is out of range.
#[derive(Clone, Copy)]
pub struct Int(pub u64);

/// The message of errors that mean [`crate::decode::Reason::OutOfRange`].
pub const OUT_OF_RANGE: &str = "out of range";
/// The message of errors that mean [`crate::decode::Reason::DuplicateField`].
pub const DUPLICATE: &str = "duplicate field";

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = u64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a non-negative integer")
            }
            fn visit_u64<E>(self, v: u64) -> Result<u64, E> {
                Ok(v)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<u64, E> {
                u64::try_from(v).map_err(|_| E::custom(OUT_OF_RANGE))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<u64, E> {
                /// 2⁵³: beyond it a float no longer names one integer.
                const EXACT: f64 = 9_007_199_254_740_992.0;
                if v.fract() != 0.0 {
                    return Err(E::invalid_type(de::Unexpected::Float(v), &self));
                }
                if !(0.0..=EXACT).contains(&v) {
                    return Err(E::custom(OUT_OF_RANGE));
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "checked just above"
                )]
                Ok(v as u64)
            }
        }
        d.deserialize_u64(V).map(Int)
    }
}

/// An object, and only an object.
pub struct Obj<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Obj<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        d.deserialize_map(V(PhantomData)).map(Obj)
    }
}

/// A field whose presence matters and whose value does not: content that a sealed source may not hold.
pub struct Content;

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Self)
    }
}

/// Counts by name, in the order of the record.
pub struct Counts<'a>(pub Vec<(Str<'a>, Int)>);

impl<'de: 'a, 'a> Deserialize<'de> for Counts<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vec<(Str<'de>, Int)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of counts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out: Self::Value = Vec::new();
                while let Some((k, v)) = map.next_entry::<Str<'de>, Int>()? {
                    if out.len() >= MAX_COUNTS {
                        return Err(de::Error::custom(OUT_OF_RANGE));
                    }
                    if out.iter().any(|(have, _)| have.0 == k.0) {
                        return Err(de::Error::custom(DUPLICATE));
                    }
                    out.push((k, v));
                }
                Ok(out)
            }
        }
        d.deserialize_map(V).map(Counts)
    }
}
