//! Finds the ONNX Runtime library, or fetches it.
//!
//! In this order: the one named with `--ort`; an installed one, 1.24 or newer; the one fetched before; else it is
//! fetched: the pinned wheel of the Python package `onnxruntime`, which holds the plain shared library, by `pip`, which
//! checks it against the checksum written here. No virtual environment, no compiler, nothing installed: the library is
//! copied into the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::CliError;
use crate::paths;

const VERSION: &str = "1.31.1";

/// The oldest minor version of ONNX Runtime 1.x whose interface suffices.
const OLDEST_MINOR: u32 = 24;

/// A wheel of the pinned version.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    platforms: [&'static str; 2],
    sha256: &'static str,
    library: &'static str,
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        platforms: ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"],
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        platforms: ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64"],
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        platforms: ["macosx_14_0_arm64", "macosx_13_0_arm64"],
        sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        library: "libonnxruntime.1.31.1.dylib",
    },
];

/// The path of a library to load. `progress` is told what takes time.
pub(crate) fn locate(named: Option<&Path>, progress: fn(&str)) -> Result<PathBuf, CliError> {
    if let Some(path) = named {
        // Whether it is one, loading it will tell.
        return Ok(path.to_owned());
    }
    if let Some(installed) = installed() {
        return Ok(installed);
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = WHEELS
        .iter()
        .find(|wheel| wheel.os == os && wheel.arch == arch)
        .ok_or_else(|| CliError::NoLibraryFor(format!("{os} on {arch}")))?;
    let place = paths::cache()?.join(format!("onnxruntime-{VERSION}"));
    if !place.is_dir() {
        progress(&format!("fetching ONNX Runtime {VERSION} (about 20 MB, once)"));
        paths::install(&place, |folder| fetch(wheel, folder))?;
    }
    Ok(place.join(wheel.library))
}

/// A library that the system's package manager or an administrator has installed.
fn installed() -> Option<PathBuf> {
    let arch = std::env::consts::ARCH;
    let folders = [
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/local/lib".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/lib64".to_owned(),
        "/opt/homebrew/lib".to_owned(),
    ];
    folders
        .iter()
        .flat_map(|folder| ["libonnxruntime.so", "libonnxruntime.dylib"].map(|name| Path::new(folder).join(name)))
        .filter_map(|link| link.canonicalize().ok())
        .find(|library| library.file_name().and_then(|name| name.to_str()).is_some_and(is_new_enough))
}

/// Whether a file name such as `libonnxruntime.so.1.31.1` names a version that suffices.
fn is_new_enough(name: &str) -> bool {
    let mut numbers = name.split('.').filter_map(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(1), Some(minor)) => minor >= OLDEST_MINOR,
        (Some(major), _) => major > 1,
        (None, _) => false,
    }
}

fn fetch(wheel: &Wheel, folder: &Path) -> Result<(), CliError> {
    let work = tempfile::tempdir().map_err(CliError::file("creating a folder in", std::env::temp_dir()))?;
    let requirements = work.path().join("requirements.txt");
    let line = format!("onnxruntime=={VERSION} --hash=sha256:{}\n", wheel.sha256);
    std::fs::write(&requirements, line).map_err(CliError::file("writing", &requirements))?;
    let mut download = python();
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    // Every wheel of the version holds the same library: ask for a fixed one, whatever Python runs here.
    download.args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]);
    for platform in wheel.platforms {
        download.args(["--platform", platform]);
    }
    download.args(["--require-hashes", "-r"]).arg(&requirements).arg("-d").arg(work.path());
    run(download)?;
    let archive = std::fs::read_dir(work.path())
        .ok()
        .and_then(|mut entries| {
            entries.find_map(|entry| entry.ok().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "whl")))
        })
        .ok_or_else(|| CliError::Fetch("pip saved no wheel".to_owned()))?;
    let mut unpack = python();
    unpack.args(["-m", "zipfile", "-e"]).arg(&archive).arg(work.path());
    run(unpack)?;
    let capi = work.path().join("onnxruntime").join("capi");
    let entries = std::fs::read_dir(&capi).map_err(CliError::file("reading", &capi))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("libonnxruntime") {
            let target = folder.join(&name);
            std::fs::copy(entry.path(), &target).map_err(CliError::file("writing", target))?;
        }
    }
    if folder.join(wheel.library).is_file() {
        Ok(())
    } else {
        Err(CliError::Fetch(format!("the wheel holds no {}", wheel.library)))
    }
}

fn python() -> Command {
    Command::new("python3")
}

fn run(mut command: Command) -> Result<(), CliError> {
    let output = command.output().map_err(|error| CliError::Fetch(format!("python3 cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("python3 failed without a word");
    Err(CliError::Fetch(last.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_library_that_names_a_sufficient_version_is_taken_from_the_system() {
        assert!(is_new_enough("libonnxruntime.so.1.24.0") && is_new_enough("libonnxruntime.1.31.1.dylib"));
        assert!(!is_new_enough("libonnxruntime.so.1.20.1") && !is_new_enough("libonnxruntime.so"));
    }
}
