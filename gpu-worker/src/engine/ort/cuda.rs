//! The few calls of NVIDIA's runtime library that ONNX Runtime does not offer: copies within a GPU's memory.
//!
//! ONNX Runtime's CUDA provider has loaded the library already; it is opened once more by its name, so that building
//! needs no CUDA. Copies run on the default stream and are waited for. The provider's own stream is idle then, since a
//! call of the model returns only when its results are there.

use std::ffi::{c_int, c_void};

use libloading::Library;
use ort::value::DynTensor;

use super::tensors::Stretches;

/// The libraries' names, newest first: CUDA 13 is what ONNX Runtime's current provider links to.
const NAMES: [&str; 2] = ["libcudart.so.13", "libcudart.so.12"];

/// `cudaMemcpyDeviceToDevice`.
const DEVICE_TO_DEVICE: c_int = 3;

type Copy2d = unsafe extern "C" fn(*mut c_void, usize, *const c_void, usize, usize, usize, c_int) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;

/// NVIDIA's runtime library.
pub(super) struct CudaRuntime {
    copy_2d: Copy2d,
    synchronize: Synchronize,
    /// Keeps the functions above loaded.
    _library: Library,
}

impl CudaRuntime {
    /// Opens the library.
    ///
    /// # Errors
    /// If the loader finds none of its names, with what to do.
    #[expect(unsafe_code, reason = "a library's functions have the types its documentation says, which nobody checks")]
    pub(super) fn open() -> ort::Result<Self> {
        let missing = |error: &dyn std::fmt::Display| {
            ort::Error::new(format!(
                "NVIDIA's runtime library is not found ({error}): install CUDA 13 and put its lib64 folder on \
                 LD_LIBRARY_PATH"
            ))
        };
        let mut last = None;
        for name in NAMES {
            // SAFETY: loading runs the library's initialisers; the provider in this process has run them already.
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    // SAFETY: the types are those of cuda_runtime_api.h for these names, in all versions of NAMES.
                    let (copy_2d, synchronize) = unsafe {
                        (
                            *library.get::<Copy2d>(b"cudaMemcpy2D\0").map_err(|error| missing(&error))?,
                            *library.get::<Synchronize>(b"cudaDeviceSynchronize\0").map_err(|error| missing(&error))?,
                        )
                    };
                    return Ok(Self { copy_2d, synchronize, _library: library });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(missing(&last.map_or_else(String::new, |error| error.to_string())))
    }

    /// Copies rows `(from, to)` of a tensor, one after another: of each stretch of a row the used part. The numbers of
    /// `stretches` are bytes.
    ///
    /// # Errors
    /// The library's number of the error.
    #[expect(unsafe_code, reason = "copying within a GPU is possible through the C interface only")]
    pub(super) fn copy_rows(
        &self,
        tensor: &mut DynTensor,
        stretches: Stretches,
        rows: &[(usize, usize)],
    ) -> ort::Result<()> {
        let Stretches { count, stride, used } = stretches;
        let all = usize::try_from(tensor.shape().first().copied().unwrap_or(0)).unwrap_or(0);
        for &(from, to) in rows {
            if from >= all || to >= all || used > stride {
                return Err(ort::Error::new(format!("rows {from} and {to} are not within {all}")));
            }
            if used == 0 || from == to {
                continue;
            }
            // SAFETY: the tensor lies in the GPU's memory and has `all` rows of `count` stretches of `stride` bytes, of
            // which `used <= stride` are touched; both rows are within it and differ, so the parts do not overlap.
            let status = unsafe {
                let start = tensor.data_ptr_mut().cast::<u8>();
                let target = start.add(to * count * stride).cast();
                let source = start.add(from * count * stride).cast_const().cast();
                (self.copy_2d)(target, stride, source, stride, used, count, DEVICE_TO_DEVICE)
            };
            check("cudaMemcpy2D", status)?;
        }
        Ok(())
    }

    /// Waits until all copies are done.
    ///
    /// # Errors
    /// The library's number of the error.
    #[expect(unsafe_code, reason = "a function of the C interface without arguments")]
    pub(super) fn wait(&self) -> ort::Result<()> {
        // SAFETY: takes nothing and may be called at any time.
        check("cudaDeviceSynchronize", unsafe { (self.synchronize)() })
    }
}

fn check(call: &str, status: c_int) -> ort::Result<()> {
    if status == 0 { Ok(()) } else { Err(ort::Error::new(format!("{call} failed with error {status} of cudaError_t"))) }
}
