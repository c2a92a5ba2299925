//! Our attention ([`crate::engine::attention`]) as operators that a graph can name: over a cache of rows in the place of
//! `com.microsoft:GroupQueryAttention`, over a pool of blocks in that of `com.microsoft:PagedAttention`.

mod attributes;
mod blocks;
mod instructions;
mod rows;
mod tokens;

use half::f16;
use ort::operator::{ComputeContext, OperatorDomain};
use ort::value::ValueRef;

pub(super) use self::instructions::is_supported;
use crate::engine::graph_bytes::OUR_DOMAIN;

/// The domain with the operators.
///
/// # Errors
/// ONNX Runtime's.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(OUR_DOMAIN)?
        .add(rows::GroupQueryAttention)?
        .add(blocks::PagedAttention::<f16>::new())?
        .add(blocks::PagedAttention::<f32>::new())
}

fn refuse<T>(what: impl Into<String>) -> ort::Result<T> {
    Err(ort::Error::new(what.into()))
}

fn is_given(context: &ComputeContext, place: usize) -> ort::Result<bool> {
    Ok(context.input(place)?.is_some())
}

fn given<'c>(context: &'c ComputeContext, place: usize, name: &str) -> ort::Result<ValueRef<'c>> {
    context.input(place)?.ok_or_else(|| ort::Error::new(format!("`{name}` is missing")))
}

fn output<'c>(context: &'c ComputeContext, place: usize, shape: &[usize]) -> ort::Result<ort::value::ValueRefMut<'c>> {
    let shape: Vec<i64> = shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    context.output(place, shape)?.ok_or_else(|| ort::Error::new("an output is missing"))
}

fn sizes(value: &ValueRef<'_>) -> ort::Result<Vec<usize>> {
    value.shape().iter().map(|&size| usize::try_from(size).map_err(|_| ort::Error::new("a negative size"))).collect()
}
