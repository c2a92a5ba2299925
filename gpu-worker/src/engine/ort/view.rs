//! A part of a tensor, as a tensor of its own over the same memory.
//!
//! `ort` offers borrowed tensors for this, but copies them when they are bound as an input; a value made from a raw
//! pointer is taken as owned and bound as it is. That is what lets the cache be updated in place, and it is the one
//! thing here that the compiler cannot check.

use std::ops::Range;
use std::ptr::NonNull;

use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynTensor, DynValue, Value};

use crate::engine::graph::Element;

/// The rows `rows` (of the first dimension) of a tensor of `element`s, in the memory that `memory` describes.
///
/// The result aliases `whole`'s memory. The caller keeps `whole` alive for as long as the result, or a binding that it
/// was bound to, exists, and does not touch `whole` while a session runs.
///
/// # Errors
/// If the rows are not within the tensor, or ONNX Runtime fails.
#[expect(unsafe_code, reason = "binding a part of a tensor without a copy is possible through the C interface only")]
pub(super) fn view(
    whole: &mut DynTensor,
    rows: Range<usize>,
    element: Element,
    memory: &MemoryInfo<'static>,
    allocator: &Allocator,
) -> ort::Result<DynValue> {
    let mut shape = whole.shape().to_vec();
    let count = shape.first().and_then(|&rows| usize::try_from(rows).ok()).unwrap_or(0);
    if rows.is_empty() || rows.end > count {
        return Err(ort::Error::new(format!("rows {rows:?} are not within {count}")));
    }
    let row_numbers: usize = shape[1..].iter().map(|&size| usize::try_from(size).unwrap_or(0)).product();
    let row_bytes = row_numbers * element.bytes();
    shape[0] = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let kind = match element {
        Element::F16 => ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Element::F32 | Element::I32 | Element::I64 | Element::Other => {
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        }
    };
    let mut made = std::ptr::null_mut();
    // SAFETY: `whole` holds `count` rows of `row_bytes` each in CPU memory, which `memory` describes, and
    // `rows.end <= count`, so the pointer and the length lie within its allocation. `shape` is valid for its length
    // during the call, which copies it; `made` receives a value that does not own the memory.
    let status = unsafe {
        let start = whole.data_ptr_mut().cast::<u8>().add(rows.start * row_bytes);
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            start.cast(),
            rows.len() * row_bytes,
            shape.as_ptr(),
            shape.len(),
            kind,
            &raw mut made,
        )
    };
    // SAFETY: the status is what the call above returned, and is consumed here only.
    unsafe { ort::Error::result_from_status(status) }?;
    let made = NonNull::new(made).ok_or_else(|| ort::Error::new("ONNX Runtime made no tensor"))?;
    // SAFETY: `made` is a valid tensor that nobody else releases; `allocator` is the one `whole` was made with.
    Ok(unsafe { Value::from_ptr(made, Some(allocator)) })
}
