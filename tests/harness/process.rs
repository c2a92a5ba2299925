//! Child processes on free ports, killed with the test that started them.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A process that is killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command; what it prints goes where the test's own output goes.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        Self { child: command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")) }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; one to a process that has ended does nothing.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.nix_pid(), signal);
    }

    /// Lets the process run only a small part of the time, until the answer is dropped: work that takes milliseconds
    /// then takes long enough to be interrupted.
    ///
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn slowed(&self, run: Duration, pause: Duration) -> Slowed {
        let (pid, over) = (self.nix_pid(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) && kill(pid, Signal::SIGSTOP).is_ok() {
                std::thread::sleep(pause);
                let _ = kill(pid, Signal::SIGCONT);
                std::thread::sleep(run);
            }
        });
        Slowed { over, thread: Some(thread) }
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).unwrap())
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it has not ended after `most`.
    pub fn wait(&mut self, most: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < most, "the process has not ended after {most:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it printed to a piped standard output, after its end.
    ///
    /// # Panics
    /// If standard output was not piped.
    pub fn printed(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// The memory it holds, in KiB; 0 once it has ended.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

/// See [`Process::slowed`].
pub struct Slowed {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port nobody listens on.
///
/// # Panics
/// If the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until `path` exists and is not empty, and reads it.
///
/// # Panics
/// If it does not appear in time.
#[must_use]
pub fn appears(path: &Path, most: Duration) -> String {
    let begun = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.is_empty() => return text,
            Ok(_) | Err(_) => assert!(begun.elapsed() < most, "{} has not appeared after {most:?}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
