//! JSON that others wrote: events, records, policies.
//!
//! What is read only to be told may hold anything, so texts that are no Unicode
//! are mended ([`mend`]). What is decided by has exactly one form: by
//! itself `serde` takes a list for an object whose fields stand in its order, so
//! that `["enforce"]` would set a mode. Everything that is read into a type passes
//! through [`parse`] or [`read`], where only objects are objects.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Value;

use crate::prose::{MOST_QUOTED, quoted};

/// What some editors begin UTF-8 with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// JSON whose texts are Unicode: a surrogate without its other half (`\ud83d`),
/// which JSON can spell and no text can hold, becomes U+FFFD, and so do bytes that
/// are no UTF-8. What was none of these stays as it is.
#[must_use]
pub fn mend(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = match String::from_utf8_lossy(json) {
        Cow::Borrowed(_) => Cow::Borrowed(json),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    let mut at = 0;
    // Outside of its texts JSON has no backslash.
    while let Some(found) = mended.iter().skip(at).position(|byte| *byte == b'\\') {
        at += found;
        let Some(unit) = code_unit(&mended, at) else {
            at += 2;
            continue;
        };
        let is_pair = is_high(unit) && code_unit(&mended, at + 6).is_some_and(is_low);
        if (is_high(unit) || is_low(unit))
            && !is_pair
            && let Some(digits) = mended.to_mut().get_mut(at + 2..at + 6)
        {
            digits.copy_from_slice(b"fffd");
        }
        at += if is_pair { 12 } else { 6 };
    }
    mended
}

/// The UTF-16 code unit that is spelt `\uXXXX` at a place.
fn code_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let mut digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
    digits.try_fold(0, |unit, digit| {
        Some(unit << 4 | u16::try_from(digit?).ok()?)
    })
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

/// Reads JSON whose texts may be no Unicode ([`mend`]), with or without the mark
/// that some editors begin a file with.
///
/// # Errors
/// It is not JSON.
pub fn value(json: &[u8]) -> Result<Value, String> {
    let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
    serde_json::from_slice(&mend(json)).map_err(|error| problem(&error))
}

/// Reads all of a text into a type; a list is no object.
///
/// # Errors
/// In one clause: it is not JSON, or the path of the field and what is wrong with
/// it.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = read(&mut reader)?;
    reader.end().map_err(|error| problem(&error))?;
    Ok(value)
}

/// Reads a document into a type; a list is no object.
///
/// # Errors
/// In one clause: the path of the field, and what is wrong with it.
pub fn read<'de, T, D>(document: D) -> Result<T, String>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    located(document).map_err(|error| {
        let path = error.path().to_string();
        let problem = problem(error.inner());
        match path.as_str() {
            "." | "?" => problem,
            // A key that nobody would write, which the problem names.
            path if path.chars().count() > MOST_QUOTED => problem,
            path => format!("`{path}`: {problem}"),
        }
    })
}

/// As [`read`], with the path apart from what is wrong.
///
/// # Errors
/// A field is not what it has to be.
pub(crate) fn located<'de, T, D>(document: D) -> Result<T, serde_path_to_error::Error<D::Error>>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    serde_path_to_error::deserialize(Objects(document))
}

/// What a parser says, which quotes the input as long as it is: it quotes the
/// input first, and says then what it expected.
fn problem(error: &impl fmt::Display) -> String {
    let said = error.to_string();
    let Some((before, expected)) = said.rsplit_once(", expected ") else {
        return said;
    };
    let Some((before, input)) = before.split_once(['"', '`']) else {
        return said;
    };
    match input.chars().count() > MOST_QUOTED + 1 {
        true => format!("{before}`{}`, expected {expected}", quoted(input)),
        false => said,
    }
}

/// A deserializer, or what belongs to one, to which a list is no object.
struct Objects<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Objects<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Objects(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Object(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Objects(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Objects(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// What JSON can hold.
impl<'de, V: Visitor<'de>> Visitor<'de> for Objects<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_f64(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(value)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(value)
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<V::Value, E> {
        self.0.visit_string(value)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Objects(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Objects(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Objects(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Objects(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Objects(variant))
    }
}

/// Takes an object and nothing else.
struct Object<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Objects(fields))
    }
}

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Object<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        value.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Objects<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Objects(value))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Objects(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Objects(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Objects<A> {
    type Error = A::Error;
    type Variant = Objects<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.0.variant_seed(seed)?;
        Ok((name, Objects(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Objects<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Objects(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, Objects(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.newtype_variant_seed(Object(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_surrogate_without_its_other_half_is_replaced_and_nothing_else() {
        for (json, expected) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\uD83D!""#, "\u{fffd}!"),
            (r#""\ude00""#, "\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ud83d\\u""#, "\u{fffd}\\u"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\"\ud83d""#, "\"\u{fffd}"),
            (r#""ü😀""#, "ü😀"),
        ] {
            assert_eq!(value(json.as_bytes()), Ok(json!(expected)), "{json}");
        }
        assert_eq!(
            value(br#"{"\ud83d":["\udc00"]}"#),
            Ok(json!({ "\u{fffd}": ["\u{fffd}"] }))
        );
        assert_eq!(value(b"\"a\xffb\xc3\""), Ok(json!("a\u{fffd}b\u{fffd}")));
        assert_eq!(value(b"\xef\xbb\xbf[]"), Ok(json!([])));
        assert!(matches!(
            mend(b"{\"a\":\"\\ud83d\\ude00\"}"),
            Cow::Borrowed(_)
        ));
        for broken in [r#""\ud83"#, r#""\ud83d"#, r#""\u"#, "\"\\", "\\", ""] {
            assert!(value(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        name: String,
        number: Option<u16>,
        share: f64,
        inner: Option<Inner>,
        list: Vec<Inner>,
        by_port: BTreeMap<u16, Inner>,
        pair: Option<(u8, Inner)>,
        choice: Option<Choice>,
        wrapped: Option<Wrapped>,
        any: Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Inner {
        on: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapped(Inner);

    #[derive(Debug, PartialEq, Deserialize)]
    enum Choice {
        Plain,
        New(Inner),
        Tuple(u8, Inner),
        Struct { on: bool },
    }

    #[test]
    fn what_is_an_object_reads_as_it_always_did() {
        for document in [
            json!({ "name": "a", "number": 9, "share": 1, "inner": { "on": true } }),
            json!({ "number": null, "share": 0.5, "inner": null, "list": [{ "on": true }] }),
            json!({ "by_port": { "22": { "on": true } }, "pair": [1, { "on": false }] }),
            json!({ "choice": "Plain", "wrapped": { "on": true } }),
            json!({ "choice": { "New": { "on": true } }, "any": [[{ "a": [-1, null] }]] }),
            json!({ "choice": { "Tuple": [1, { "on": true }] } }),
            json!({ "choice": { "Struct": { "on": true } } }),
        ] {
            let expected: Outer = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(read(&document), Ok(expected), "{document}");
            let text = document.to_string();
            let expected: Outer = serde_json::from_str(&text).unwrap();
            let mut reader = serde_json::Deserializer::from_str(&text);
            assert_eq!(read(&mut reader), Ok(expected), "{document}");
        }
    }

    #[test]
    fn a_list_is_no_object_wherever_it_stands() {
        for (document, path) in [
            (json!([]), ""),
            (json!(["a"]), ""),
            (json!({ "inner": [true] }), "`inner`: "),
            (json!({ "list": [{ "on": true }, [true]] }), "`list[1]`: "),
            (json!({ "by_port": { "22": [true] } }), "`by_port.22`: "),
            (json!({ "pair": [1, [true]] }), "`pair[1]`: "),
            (json!({ "wrapped": [true] }), "`wrapped`: "),
            (json!({ "choice": { "New": [true] } }), "`choice.New`: "),
            (
                json!({ "choice": { "Tuple": [1, [true]] } }),
                "`choice.Tuple[1]`: ",
            ),
            (
                json!({ "choice": { "Struct": [true] } }),
                "`choice.Struct`: ",
            ),
        ] {
            let problem = read::<Outer, _>(&document).unwrap_err();
            let expected = format!("{path}invalid type: sequence, expected an object");
            assert_eq!(problem, expected, "{document}");
            let text = document.to_string();
            let lax = serde_json::from_str::<Outer>(&text);
            assert!(lax.is_ok(), "what is shown here: {document}");
            let problem = read::<Outer, _>(&mut serde_json::Deserializer::from_str(&text));
            let problem = problem.unwrap_err();
            assert!(problem.starts_with(&expected), "{document}: {problem}");
        }
    }

    #[test]
    fn what_is_wrong_is_quoted_in_a_hundred_characters() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Strict {
            #[serde(default, rename = "on")]
            _on: bool,
        }
        let long = "ü\", expected `".repeat(1_000);
        for document in [
            json!({ "on": long }),
            json!({ (long.clone()): true }),
            json!(long),
        ] {
            let problem = read::<Strict, _>(&document).unwrap_err();
            let times = problem.matches('ü').count();
            assert!((1..=100 / 14 + 1).contains(&times), "{problem}");
            let ends = [
                "…`, expected a boolean",
                "…`, expected `on`",
                "…`, expected an object",
            ];
            assert!(ends.iter().any(|end| problem.ends_with(end)), "{problem}");
        }
        let problem = read::<BTreeMap<String, bool>, _>(&json!({ (long.clone()): "no" }));
        assert!(problem.unwrap_err().chars().count() < 200);
    }
}
