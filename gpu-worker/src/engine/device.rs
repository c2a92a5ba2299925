//! What a model runs on.

use std::ffi::OsStr;
use std::io;
use std::str::FromStr;

/// What a model runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, or a slice of one.
    Cuda(Gpu),
}

/// An NVIDIA GPU as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its place among those that CUDA shows to this process.
    pub ordinal: i32,
    /// Its name, or that of a slice of one (MIG), which stays the same when places change; `None`: only the place is
    /// known. CUDA shows the device of that name alone if `CUDA_VISIBLE_DEVICES` says so.
    pub uuid: Option<String>,
}

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no device: use cpu, cuda, cuda:1, or the UUID that `nvidia-smi -L` prints (GPU-... or MIG-...)")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownDevice(text.to_owned());
        if text.starts_with("GPU-") || text.starts_with("MIG-") {
            return Ok(Self::Cuda(Gpu { ordinal: 0, uuid: Some(text.to_owned()) }));
        }
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(Gpu { ordinal: 0, uuid: None })),
            Some(("cuda", ordinal)) => {
                let ordinal = ordinal.parse().ok().filter(|ordinal| *ordinal >= 0).ok_or_else(unknown)?;
                Ok(Self::Cuda(Gpu { ordinal, uuid: None }))
            }
            None | Some(_) => Err(unknown()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(Gpu { uuid: Some(uuid), .. }) => f.write_str(uuid),
            Self::Cuda(Gpu { ordinal, uuid: None }) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Device {
    /// What `CUDA_VISIBLE_DEVICES` must be when the process starts, so that this device is the one it sees; `None`: it
    /// does not matter.
    #[must_use]
    pub fn must_be_visible(&self) -> Option<&str> {
        match self {
            Self::Cpu => None,
            Self::Cuda(gpu) => gpu.uuid.as_deref(),
        }
    }
}

/// Makes the device the one that CUDA shows to this process, by starting the program anew in its place if need be: CUDA
/// looks at `CUDA_VISIBLE_DEVICES` when it is loaded, and only so can a slice of a GPU be chosen. `visible` is the
/// variable's value now. Call it first of all; it returns only if there is nothing to do or it fails.
///
/// # Errors
/// If the program cannot be started anew.
pub fn show(device: &Device, visible: Option<&OsStr>) -> io::Result<()> {
    match device.must_be_visible() {
        Some(uuid) if visible != Some(OsStr::new(uuid)) => {
            let mut again = std::process::Command::new(std::env::current_exe()?);
            again.args(std::env::args_os().skip(1)).env("CUDA_VISIBLE_DEVICES", uuid);
            Err(std::os::unix::process::CommandExt::exec(&mut again))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_it_is_read() {
        for text in ["cpu", "cuda:0", "cuda:3", "GPU-5a", "MIG-5a"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap().to_string(), "cuda:0");
        assert_eq!("MIG-5a".parse::<Device>().unwrap().must_be_visible(), Some("MIG-5a"));
        assert_eq!("cuda:1".parse::<Device>().unwrap().must_be_visible(), None);
    }

    #[test]
    fn what_names_no_device_is_refused_with_what_would() {
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "tpu:0", "CPU"] {
            assert!(text.parse::<Device>().unwrap_err().to_string().contains("cuda:1"), "{text}");
        }
    }
}
