//! DynamoDB items, read and written with types. Numbers are decimal text on the wire, exact to 38 digits.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{PortError, PortResult};

use crate::error::corrupt;

/// An item as the SDK has it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The version of every record this crate writes, in attribute `v`. A reader refuses a newer one.
pub(crate) const VERSION: u32 = 1;

/// A text.
pub(crate) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A number.
pub(crate) fn n(number: impl Display) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Bytes.
pub(crate) fn b(bytes: Vec<u8>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// A moment, in milliseconds.
pub(crate) fn ms(moment: Timestamp) -> AttributeValue {
    n(moment.as_millis())
}

/// A nonce. As text, so that no emulator rounds it.
pub(crate) fn nonce_value(nonce: Nonce) -> AttributeValue {
    s(format!("{:x}", nonce.0))
}

/// An item made of pairs.
pub(crate) fn item<const N: usize>(pairs: [(&str, AttributeValue); N]) -> Item {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Reads the attributes of an item that should be a `what`.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'i> {
    what: &'static str,
    item: &'i Item,
}

impl<'i> Fields<'i> {
    pub(crate) fn new(what: &'static str, item: &'i Item) -> Self {
        Self { what, item }
    }

    /// Reads an item whose version must be known.
    pub(crate) fn versioned(what: &'static str, item: &'i Item) -> PortResult<Self> {
        Self::up_to(what, item, VERSION)
    }

    /// Reads an item whose version may be up to `newest`.
    pub(crate) fn up_to(what: &'static str, item: &'i Item, newest: u32) -> PortResult<Self> {
        let fields = Self::new(what, item);
        match fields.number::<u32>("v")? {
            known if (VERSION..=newest).contains(&known) => Ok(fields),
            newer => Err(corrupt(what, format!("version {newer} is not {newest}: a newer program wrote it"))),
        }
    }

    fn malformed(&self, name: &str) -> PortError {
        corrupt(self.what, format!("attribute '{name}' is missing or malformed"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.item.contains_key(name)
    }

    pub(crate) fn maybe_text(&self, name: &str) -> PortResult<Option<&'i str>> {
        match self.item.get(name) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(self.malformed(name)),
        }
    }

    /// A list of texts; none if it is absent.
    pub(crate) fn texts(&self, name: &str) -> PortResult<Vec<&'i str>> {
        match self.item.get(name) {
            None => Ok(Vec::new()),
            Some(AttributeValue::L(values)) => {
                let text =
                    |value: &'i AttributeValue| value.as_s().map(String::as_str).map_err(|_| self.malformed(name));
                values.iter().map(text).collect()
            }
            Some(_) => Err(self.malformed(name)),
        }
    }

    pub(crate) fn text(&self, name: &str) -> PortResult<&'i str> {
        self.maybe_text(name)?.ok_or_else(|| self.malformed(name))
    }

    pub(crate) fn maybe_parsed<T: FromStr>(&self, name: &str) -> PortResult<Option<T>> {
        self.maybe_text(name)?.map(|text| text.parse().map_err(|_| self.malformed(name))).transpose()
    }

    pub(crate) fn parsed<T: FromStr>(&self, name: &str) -> PortResult<T> {
        self.maybe_parsed(name)?.ok_or_else(|| self.malformed(name))
    }

    pub(crate) fn maybe_number<T: FromStr>(&self, name: &str) -> PortResult<Option<T>> {
        match self.item.get(name) {
            None => Ok(None),
            Some(AttributeValue::N(digits)) => digits.parse().map(Some).map_err(|_| self.malformed(name)),
            Some(_) => Err(self.malformed(name)),
        }
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> PortResult<T> {
        self.maybe_number(name)?.ok_or_else(|| self.malformed(name))
    }

    pub(crate) fn maybe_moment(&self, name: &str) -> PortResult<Option<Timestamp>> {
        Ok(self.maybe_number(name)?.map(Timestamp::from_millis))
    }

    pub(crate) fn moment(&self, name: &str) -> PortResult<Timestamp> {
        self.number(name).map(Timestamp::from_millis)
    }

    pub(crate) fn bytes(&self, name: &str) -> PortResult<&'i [u8]> {
        match self.item.get(name) {
            Some(AttributeValue::B(blob)) => Ok(blob.as_ref()),
            _ => Err(self.malformed(name)),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> PortResult<bool> {
        match self.item.get(name) {
            Some(AttributeValue::Bool(flag)) => Ok(*flag),
            _ => Err(self.malformed(name)),
        }
    }

    /// The nonce of the write that made this version of the item; `None` if no nonce was ever written.
    pub(crate) fn nonce(&self) -> PortResult<Option<Nonce>> {
        let Some(text) = self.maybe_text("n")? else { return Ok(None) };
        // A nonce that was taken back (see `limits`) is not hexadecimal and equals none.
        Ok(u64::from_str_radix(text, 16).ok().map(Nonce))
    }

    /// A part of the item that its own module found malformed.
    pub(crate) fn broken(&self, name: &str) -> PortError {
        self.malformed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_nineteen_digits_and_a_nonce_read_back_exactly() {
        let stored = item([("t0", n(i64::MAX)), ("n", nonce_value(Nonce(u64::MAX)))]);
        let fields = Fields::new("bucket", &stored);
        assert_eq!(fields.number::<i64>("t0"), Ok(i64::MAX));
        assert_eq!(fields.nonce(), Ok(Some(Nonce(u64::MAX))));
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let stored = item([("v", n(VERSION + 1))]);
        let error = Fields::versioned("job record", &stored).err().unwrap();
        assert!(error.to_string().contains("a newer program wrote it"), "{error}");
        assert!(!error.is_passing());
    }

    #[test]
    fn an_attribute_of_another_type_is_damage_and_a_missing_one_may_be_none() {
        let stored = item([("st", n(1))]);
        let fields = Fields::new("job record", &stored);
        assert!(matches!(fields.text("st"), Err(PortError::Corrupt { .. })));
        assert_eq!(fields.maybe_text("ow"), Ok(None));
    }
}
