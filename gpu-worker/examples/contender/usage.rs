//! What this process has used, as Linux tells.

use std::io::{Error, Result};

/// Seconds that the threads of this process have run, to the microsecond: of those that live.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let run: u64 = text.split(' ').next().and_then(|first| first.parse().ok()).ok_or_else(|| unreadable(&text))?;
        nanoseconds += run;
    }
    Ok(std::time::Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// Bytes of memory that are resident now.
pub(crate) fn resident_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or_else(|| unreadable(&text))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| unreadable(line))?;
    Ok(kib * 1024)
}

fn unreadable(text: &str) -> Error {
    Error::other(format!("cannot read {text:?}"))
}
