//! Structured mutation: what a careless or hostile writer makes of a good text, step by step, so that a failing case
//! shrinks to the few steps that matter.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    /// The node at that place (counted through the whole text) becomes something else.
    Replace(usize, Odd),
    /// It goes.
    Remove(usize),
    /// Its key is spelt otherwise.
    Rename(usize, String),
    /// It is there many times, in a list.
    Repeat(usize, usize),
    /// It is wrapped in so many lists.
    Wrap(usize, usize),
    /// Not JSON any more: bytes at that place become these.
    Bytes(usize, Vec<u8>),
    /// The text ends there.
    Cut(usize),
}

/// What nobody expects.
#[derive(Clone, Debug)]
pub(crate) enum Odd {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    Long(usize),
    List,
    Object,
}

impl Odd {
    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => json!(bool),
            Self::Integer(number) => json!(number),
            Self::Unsigned(number) => json!(number),
            Self::Float(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Long(length) => json!("x".repeat(*length)),
            Self::List => json!([]),
            Self::Object => json!({}),
        }
    }
}

/// Some steps.
pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let odd = prop_oneof![
        Just(Odd::Null),
        any::<bool>().prop_map(Odd::Bool),
        prop_oneof![Just(-1), Just(0), Just(1), Just(i64::MAX), Just(i64::MIN), any::<i64>()].prop_map(Odd::Integer),
        prop_oneof![Just(u64::MAX), Just(1 << 32), Just(1 << 53), any::<u64>()].prop_map(Odd::Unsigned),
        prop_oneof![Just(1e308), Just(-0.0), Just(1e-320), any::<f64>()].prop_map(Odd::Float),
        prop_oneof![Just(String::new()), Just("\u{0}".to_owned()), Just("ﷺ\u{202e}🧨".to_owned()), ".{0,20}"]
            .prop_map(Odd::Text),
        (0usize..5_000).prop_map(Odd::Long),
        Just(Odd::List),
        Just(Odd::Object),
    ];
    let place = 0usize..200;
    let step = prop_oneof![
        6 => (place.clone(), odd).prop_map(|(place, odd)| Mutation::Replace(place, odd)),
        2 => place.clone().prop_map(Mutation::Remove),
        1 => (place.clone(), "[a-z_]{0,12}").prop_map(|(place, name)| Mutation::Rename(place, name)),
        1 => (place.clone(), 0usize..200).prop_map(|(place, times)| Mutation::Repeat(place, times)),
        1 => (place.clone(), 1usize..200).prop_map(|(place, depth)| Mutation::Wrap(place, depth)),
        1 => (0usize..2_000, proptest::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(place, bytes)| Mutation::Bytes(place, bytes)),
        1 => (0usize..2_000).prop_map(Mutation::Cut),
    ];
    proptest::collection::vec(step, 1..5)
}

/// What becomes of a text.
pub(crate) fn mutated(text: &str, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for mutation in mutations {
        match mutation {
            Mutation::Bytes(place, with) if !bytes.is_empty() => {
                let place = place % bytes.len();
                let end = (place + with.len()).min(bytes.len());
                bytes.splice(place..end, with.iter().copied());
            }
            Mutation::Cut(place) => bytes.truncate(place % (bytes.len() + 1)),
            Mutation::Bytes(..) => {}
            Mutation::Replace(place, _)
            | Mutation::Remove(place)
            | Mutation::Rename(place, _)
            | Mutation::Repeat(place, _)
            | Mutation::Wrap(place, _) => {
                // What is no JSON any more stays as it is.
                let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else { continue };
                let count = nodes(&value);
                change(&mut value, &mut (place % count), mutation);
                bytes = value.to_string().into_bytes();
            }
        }
    }
    bytes
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Walks to the node that many nodes on and changes it; true once it is done.
fn change(value: &mut Value, left: &mut usize, mutation: &Mutation) -> bool {
    if *left == 0 {
        match mutation {
            Mutation::Replace(_, odd) => *value = odd.value(),
            Mutation::Repeat(_, times) => *value = Value::Array(vec![value.clone(); *times]),
            Mutation::Wrap(_, depth) => {
                for _ in 0..*depth {
                    *value = Value::Array(vec![value.take()]);
                }
            }
            // The root has neither a key nor a place to be taken from.
            Mutation::Remove(_) | Mutation::Rename(..) => *value = Value::Null,
            Mutation::Bytes(..) | Mutation::Cut(_) => {}
        }
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => {
            if *left == 0 && matches!(mutation, Mutation::Remove(_)) && !items.is_empty() {
                items.remove(0);
                return true;
            }
            items.iter_mut().any(|item| change(item, left, mutation))
        }
        Value::Object(fields) => change_field(fields, left, mutation),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn change_field(fields: &mut Map<String, Value>, left: &mut usize, mutation: &Mutation) -> bool {
    let keys: Vec<String> = fields.keys().cloned().collect();
    for key in keys {
        match mutation {
            Mutation::Remove(_) if *left == 0 => {
                fields.remove(&key);
                return true;
            }
            Mutation::Rename(_, name) if *left == 0 => {
                let value = fields.remove(&key).unwrap_or_default();
                fields.insert(name.clone(), value);
                return true;
            }
            Mutation::Replace(..)
            | Mutation::Remove(_)
            | Mutation::Rename(..)
            | Mutation::Repeat(..)
            | Mutation::Wrap(..)
            | Mutation::Bytes(..)
            | Mutation::Cut(_) => {
                if fields.get_mut(&key).is_some_and(|value| change(value, left, mutation)) {
                    return true;
                }
            }
        }
    }
    false
}
