//! Whether the cache fits into memory, decided before it is allocated.
//!
//! An allocation that the machine cannot back does not fail: the kernel kills the process when the pages are touched,
//! hours later and in the middle of other people's answers. So the cache's size is computed from the model's shape and
//! refused above [`SHARE_PERCENT`] of what is available, which is the lesser of what the kernel reports for the machine
//! and what the control group leaves; on a GPU, what is free there.
//!
//! Edge cases: a limit of `max` is none; page cache that can be given back counts as available within a control group;
//! where nothing is known (no Linux, no management library of NVIDIA's) nothing is refused.

use std::path::Path;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::device::{Device, Gpu};

/// How much of the available memory the cache may take, in percent. The rest is for activations and everybody else.
pub const SHARE_PERCENT: u64 = 90;

/// The cache would not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cache of {slots} slots of {context_length} tokens needs {needed_bytes} bytes, more than {SHARE_PERCENT} % of \
     the {available_bytes} bytes available: use at most {fitting_slots} slots, or a shorter context"
)]
pub struct CacheTooLarge {
    /// Slots asked for.
    pub slots: usize,
    /// Tokens per slot.
    pub context_length: usize,
    /// What they need.
    pub needed_bytes: u64,
    /// What there is.
    pub available_bytes: u64,
    /// How many slots would fit; maybe 0.
    pub fitting_slots: u64,
}

/// A pool of blocks would not hold even one sequence of full length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a context of {context_length} tokens needs {needed_bytes} bytes of cache, more than {SHARE_PERCENT} % of the \
     {available_bytes} bytes available: use a context of at most {fitting_tokens} tokens"
)]
pub struct PoolTooSmall {
    /// Tokens of the longest sequence.
    pub context_length: usize,
    /// What they need.
    pub needed_bytes: u64,
    /// What there is.
    pub available_bytes: u64,
    /// How many tokens would fit; maybe 0.
    pub fitting_tokens: u64,
}

/// What to do if the slots do not fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Refuse to load.
    Refuse,
    /// Make do with as many as fit, if any does.
    FewerSlots,
}

/// The shape of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model.
    pub layers: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// Numbers per head and token.
    pub head_size: usize,
    /// Bytes of a number.
    pub element_bytes: usize,
    /// Tokens per row.
    pub context_length: usize,
}

/// What a cache takes, and how much of it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePlan {
    /// Bytes of one token, in all layers.
    pub token_bytes: u64,
    /// Bytes of one number.
    pub number_bytes: usize,
    /// How many sequences of full length fit into memory beside the weights; `None`: nothing is known of the memory.
    pub fitting: Option<u64>,
}

impl CacheShape {
    /// What rows of this shape take, and how many sequences of `context_length` tokens fit into `available` bytes.
    #[must_use]
    pub fn plan(&self, context_length: usize, available: Option<u64>) -> CachePlan {
        let sequence = Self { context_length, ..*self }.row_bytes().max(1);
        CachePlan {
            token_bytes: Self { context_length: 1, ..*self }.row_bytes(),
            number_bytes: self.element_bytes,
            fitting: available.map(|available| allowed(available) / sequence),
        }
    }

    /// Bytes of one row: keys and values of every layer. Saturates.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        [self.layers, self.kv_heads, self.head_size, self.element_bytes, self.context_length]
            .into_iter()
            .fold(2u64, |product, factor| product.saturating_mul(factor as u64))
    }

    /// How many slots to make: `slots` if they fit into `available` bytes, else what `on_shortage` says.
    ///
    /// # Errors
    /// [`CacheTooLarge`], with the number of slots that would fit.
    pub fn fit(&self, slots: usize, available: Option<u64>, on_shortage: Shortage) -> Result<usize, CacheTooLarge> {
        match (self.check(slots, available), on_shortage) {
            (Ok(()), _) => Ok(slots),
            (Err(error), Shortage::FewerSlots) if error.fitting_slots > 0 => {
                Ok(usize::try_from(error.fitting_slots).unwrap_or(slots).min(slots))
            }
            (Err(error), Shortage::FewerSlots | Shortage::Refuse) => Err(error),
        }
    }

    /// How many blocks to make, each as long as a row of this shape: `wanted` or as many as fit into `available` bytes, but
    /// no fewer than a sequence of `context_length` tokens needs.
    ///
    /// # Errors
    /// [`PoolTooSmall`], with the tokens that would fit.
    pub fn blocks(&self, wanted: usize, context_length: usize, available: Option<u64>) -> Result<usize, PoolTooSmall> {
        let least = context_length.div_ceil(self.context_length.max(1));
        let Some(available_bytes) = available else {
            return Ok(wanted.max(least));
        };
        let fitting = allowed(available_bytes) / self.row_bytes().max(1);
        if fitting < least as u64 {
            return Err(PoolTooSmall {
                context_length,
                needed_bytes: self.row_bytes().saturating_mul(least as u64),
                available_bytes,
                fitting_tokens: fitting.saturating_mul(self.context_length as u64),
            });
        }
        Ok(usize::try_from(fitting).unwrap_or(usize::MAX).min(wanted.max(least)))
    }

    /// Checks that `slots` rows and one spare fit into `available` bytes; `None` means that nothing is known.
    ///
    /// # Errors
    /// [`CacheTooLarge`], with the number of slots that would fit.
    pub fn check(&self, slots: usize, available: Option<u64>) -> Result<(), CacheTooLarge> {
        let Some(available_bytes) = available else {
            return Ok(());
        };
        let needed_bytes = self.row_bytes().saturating_mul(slots as u64 + 1);
        let allowed = allowed(available_bytes);
        if needed_bytes <= allowed {
            return Ok(());
        }
        Err(CacheTooLarge {
            slots,
            context_length: self.context_length,
            needed_bytes,
            available_bytes,
            fitting_slots: (allowed / self.row_bytes().max(1)).saturating_sub(1),
        })
    }
}

/// What the cache may take of so much memory.
fn allowed(available_bytes: u64) -> u64 {
    available_bytes - available_bytes / 100 * (100 - SHARE_PERCENT)
}

/// Memory in use, and what there is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that there are.
    pub limit: u64,
}

/// The memory of a device that is in use: on a GPU everybody's there; on a processor that of the control group if it is
/// limited, else this process's of the machine's. `None` where the system does not tell.
#[must_use]
pub fn usage(device: &Device) -> Option<Usage> {
    match device {
        Device::Cuda(gpu) => {
            let read = || {
                let library = Nvml::init()?;
                let memory = gpu_of(&library, gpu)?.memory_info()?;
                Ok::<Usage, NvmlError>(Usage { used: memory.used, limit: memory.total })
            };
            read().ok()
        }
        Device::Cpu => group_usage().or_else(|| {
            let limit = read("/proc/meminfo").and_then(|text| kib_of(&text, "MemTotal:"))?;
            Some(Usage { used: resident()?, limit })
        }),
    }
}

/// The bytes of memory that this process holds, where the system tells.
#[must_use]
pub fn resident() -> Option<u64> {
    kib_of(&read("/proc/self/status")?, "VmRSS:")
}

/// The use of this process's control group, if it is limited.
fn group_usage() -> Option<Usage> {
    let stat = |path: &str| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    GROUPS.iter().find_map(|[limit, usage, statistics]| {
        let limit = stat(limit).filter(|limit| *limit < UNLIMITED)?;
        let left = control_group(Some(&limit.to_string()), read(usage).as_deref(), read(statistics).as_deref())?;
        Some(Usage { used: limit - left.min(limit), limit })
    })
}

/// The files of a control group's limit, use and statistics, in both versions.
const GROUPS: [[&str; 3]; 2] = [
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"],
    [
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ],
];

/// What version 1 of control groups says where there is no limit is near the largest number.
const UNLIMITED: u64 = 1 << 60;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(path)).ok()
}

/// The bytes of memory available to this process on a device, where the system tells.
#[must_use]
pub fn available(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => available_to_processor(),
        Device::Cuda(gpu) => available_on_gpu(gpu),
    }
}

/// What NVIDIA's management library says is free on a GPU or a slice of one.
fn available_on_gpu(gpu: &Gpu) -> Option<u64> {
    let free = || {
        let library = Nvml::init()?;
        Ok::<u64, NvmlError>(gpu_of(&library, gpu)?.memory_info()?.free)
    };
    free().inspect_err(|error| tracing::warn!(%error, "the GPU's free memory is unknown; nothing is refused")).ok()
}

fn gpu_of<'l>(library: &'l Nvml, gpu: &Gpu) -> Result<nvml_wrapper::Device<'l>, NvmlError> {
    match &gpu.uuid {
        Some(uuid) => library.device_by_uuid(uuid.as_str()),
        None => library.device_by_index(u32::try_from(gpu.ordinal).unwrap_or(0)),
    }
}

fn available_to_processor() -> Option<u64> {
    let machine = read("/proc/meminfo").and_then(|text| mem_available(&text));
    let group = GROUPS.iter().find_map(|[limit, usage, statistics]| {
        control_group(read(limit).as_deref(), read(usage).as_deref(), read(statistics).as_deref())
    });
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (one, other) => one.or(other),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn mem_available(text: &str) -> Option<u64> {
    kib_of(text, "MemAvailable:")
}

/// A figure of one of the kernel's lists, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What a control group's limit leaves: limit less use, page cache not in use given back.
fn control_group(limit: Option<&str>, usage: Option<&str>, stat: Option<&str>) -> Option<u64> {
    let limit: u64 = limit?.trim().parse().ok()?;
    let usage: u64 = usage?.trim().parse().ok()?;
    let reclaimable = stat
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("inactive_file ")))
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0u64);
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN_1_5B: CacheShape =
        CacheShape { layers: 28, kv_heads: 2, head_size: 128, element_bytes: 2, context_length: 4096 };

    #[test]
    fn a_token_of_a_known_model_costs_what_its_shape_says() {
        assert_eq!(QWEN_1_5B.row_bytes(), 28_672 * 4096);
    }

    #[test]
    fn a_cache_beyond_ninety_percent_is_refused_with_what_would_fit() {
        let row = QWEN_1_5B.row_bytes();
        let available = Some(row * 10);
        assert_eq!(QWEN_1_5B.check(8, available), Ok(()));
        let error = QWEN_1_5B.check(9, available).unwrap_err();
        assert_eq!(error.fitting_slots, 8);
        assert_eq!(QWEN_1_5B.check(1 << 20, None), Ok(()));
        assert_eq!(QWEN_1_5B.check(1, Some(0)).unwrap_err().fitting_slots, 0);
    }

    #[test]
    fn slots_left_to_the_engine_are_as_many_as_fit() {
        let available = Some(QWEN_1_5B.row_bytes() * 10);
        assert_eq!(QWEN_1_5B.fit(24, available, Shortage::FewerSlots), Ok(8));
        assert_eq!(QWEN_1_5B.fit(3, available, Shortage::FewerSlots), Ok(3));
        assert_eq!(QWEN_1_5B.fit(24, None, Shortage::FewerSlots), Ok(24));
        assert!(QWEN_1_5B.fit(24, available, Shortage::Refuse).is_err());
        assert!(QWEN_1_5B.fit(24, Some(1), Shortage::FewerSlots).is_err(), "not a single one fits");
    }

    #[test]
    fn blocks_are_as_many_as_fit_and_one_context_at_least() {
        let shape = CacheShape { context_length: 256, ..QWEN_1_5B };
        let available = Some(shape.row_bytes() * 100);
        assert_eq!(shape.blocks(64, 4096, available), Ok(64));
        assert_eq!(shape.blocks(1_000, 4096, available), Ok(90));
        assert_eq!(shape.blocks(3, 4096, available), Ok(16), "a whole context always");
        assert_eq!(shape.blocks(3, 4097, None), Ok(17));
        let error = shape.blocks(64, 30_000, available).unwrap_err();
        assert_eq!((error.fitting_tokens, error.context_length), (90 * 256, 30_000));
    }

    #[test]
    fn the_kernel_s_figures_are_read() {
        let meminfo = "MemTotal:       24600000 kB\nMemFree: 1 kB\nMemAvailable:   20000 kB\n";
        assert_eq!(mem_available(meminfo), Some(20_480_000));
        assert_eq!(mem_available("MemTotal: 5 kB"), None);
        assert_eq!(kib_of("VmPeak:  9 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12_288));
        assert!(resident().is_none_or(|bytes| bytes > 0));
        let stat = Some("anon 5\ninactive_file 30\nactive_file 9\n");
        assert_eq!(control_group(Some("100\n"), Some("80\n"), stat), Some(50));
        assert_eq!(control_group(Some("max\n"), Some("80\n"), stat), None);
        assert_eq!(control_group(Some("100"), Some("180"), None), Some(0));
    }
}
