//! The event kernel: an executor whose clock stands still while anything can run and then jumps to the next timer.
//!
//! One thread, no sleeping. Ready tasks run in an order drawn from the seed, so different seeds interleave the same
//! program differently and one seed always the same way. Tasks belong to groups; killing a group drops its tasks
//! between two polls, which is what the death of a process looks like to everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Clock, Entropy, Spawner};

use crate::chance::Chance;

/// Tasks that live and die together: a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub u32);

/// The kernel. Cheap to clone.
#[derive(Clone)]
pub struct Kernel {
    state: Arc<Mutex<State>>,
}

struct State {
    now: Timestamp,
    chance: Chance,
    next_task: u64,
    next_timer: u64,
    tasks: BTreeMap<u64, (Group, Option<BoxFuture<'static, ()>>)>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    timers: BTreeMap<(Timestamp, u64), Waker>,
    paused: BTreeSet<Group>,
}

impl Kernel {
    /// A kernel at a fixed moment, with all chance drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            now: Timestamp::from_millis(1_800_000_000_000),
            chance: Chance::new(seed),
            next_task: 0,
            next_timer: 0,
            tasks: BTreeMap::new(),
            ready: Arc::default(),
            timers: BTreeMap::new(),
            paused: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Runs until `done` says so; `false` if nothing is left to run or the moment `until` is reached before.
    pub fn run_until(&self, until: Timestamp, mut done: impl FnMut() -> bool) -> bool {
        loop {
            if done() {
                return true;
            }
            if let Some(task) = self.pick() {
                self.poll(task);
            } else if !self.jump(until) {
                return done();
            }
        }
    }

    /// A spawner whose tasks belong to `group`.
    #[must_use]
    pub fn spawner(&self, group: Group) -> Arc<dyn Spawner> {
        Arc::new(GroupSpawner { kernel: self.clone(), group })
    }

    /// Kills a process: its tasks are dropped where they stand.
    pub fn kill(&self, group: Group) {
        let dead: Vec<_> = {
            let mut state = self.lock();
            let dead: Vec<u64> = state.tasks.iter().filter(|(_, (g, _))| *g == group).map(|(id, _)| *id).collect();
            dead.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        // Dropped outside the lock: a task's drop may spawn.
        drop(dead);
    }

    /// Freezes a process or lets it go on: while it is frozen its tasks do nothing, whatever they are woken for.
    pub fn freeze(&self, group: Group, frozen: bool) {
        let mut state = self.lock();
        if frozen {
            state.paused.insert(group);
        } else {
            state.paused.remove(&group);
        }
    }

    /// A number below `bound`, drawn from the seed.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.lock().chance.draw() % bound.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self) -> Option<u64> {
        let mut state = self.lock();
        let ready = Arc::clone(&state.ready);
        let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
        let frozen = |task: &u64| state.tasks.get(task).is_some_and(|(group, _)| state.paused.contains(group));
        let able: Vec<u64> = match state.paused.is_empty() {
            true => Vec::new(),
            false => ready.iter().copied().filter(|task| !frozen(task)).collect(),
        };
        let count = if state.paused.is_empty() { ready.len() } else { able.len() } as u64;
        if count == 0 {
            return None;
        }
        let place = usize::try_from(state.chance.draw() % count).unwrap_or(0);
        let task = if state.paused.is_empty() { ready.iter().nth(place).copied()? } else { *able.get(place)? };
        ready.remove(&task);
        Some(task)
    }

    fn poll(&self, task: u64) {
        let (future, ready) = {
            let mut state = self.lock();
            let ready = Arc::clone(&state.ready);
            (state.tasks.get_mut(&task).and_then(|(_, future)| future.take()), ready)
        };
        let Some(mut future) = future else { return };
        let waker = Waker::from(Arc::new(Ready { task, ready }));
        let finished = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_ready();
        let mut state = self.lock();
        if finished {
            state.tasks.remove(&task);
        } else if let Some((_, slot)) = state.tasks.get_mut(&task) {
            *slot = Some(future);
        }
    }

    fn jump(&self, until: Timestamp) -> bool {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            let Some(next) = state.timers.keys().next().map(|(moment, _)| *moment).filter(|next| *next <= until) else {
                state.now = state.now.max(until);
                return false;
            };
            state.now = state.now.max(next);
            let later = state.timers.split_off(&(Timestamp::from_millis(next.as_millis() + 1), 0));
            std::mem::replace(&mut state.timers, later).into_values().collect()
        };
        due.into_iter().for_each(Waker::wake);
        true
    }
}

#[async_trait]
impl Clock for Kernel {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    async fn sleep_until(&self, moment: Timestamp) {
        let mut timer: Option<(Timestamp, u64)> = None;
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if let Some(key) = timer.take() {
                state.timers.remove(&key);
            }
            if state.now >= moment {
                return Poll::Ready(());
            }
            let key = (moment, state.next_timer);
            state.next_timer += 1;
            state.timers.insert(key, context.waker().clone());
            timer = Some(key);
            Poll::Pending
        })
        .await;
    }
}

impl Entropy for Kernel {
    fn draw(&self) -> u128 {
        let mut state = self.lock();
        u128::from(state.chance.draw()) << 64 | u128::from(state.chance.draw())
    }
}

struct GroupSpawner {
    kernel: Kernel,
    group: Group,
}

impl Spawner for GroupSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let mut state = self.kernel.lock();
        let id = state.next_task;
        state.next_task += 1;
        state.tasks.insert(id, (self.group, Some(task)));
        state.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }
}

struct Ready {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(self.task);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use std::time::Duration;

    use super::*;

    fn later(from: Timestamp, ms: u64) -> Timestamp {
        from.after(Duration::from_millis(ms))
    }

    #[test]
    fn the_clock_jumps_to_the_next_timer_and_no_further() {
        let kernel = Kernel::new(1);
        let begun = kernel.now();
        let woken = Arc::new(Mutex::new(Vec::new()));
        for ms in [30u64, 10, 20] {
            let (kernel_in, woken) = (kernel.clone(), Arc::clone(&woken));
            kernel.spawner(Group(0)).spawn(Box::pin(async move {
                kernel_in.sleep_until(later(begun, ms)).await;
                woken.lock().unwrap().push(kernel_in.now().since(begun).as_millis());
            }));
        }
        assert!(!kernel.run_until(later(begun, 25), || false));
        assert_eq!(*woken.lock().unwrap(), [10, 20]);
        assert_eq!(kernel.now(), later(begun, 25));
    }

    #[test]
    fn a_frozen_group_does_nothing_until_it_is_let_go_on() {
        let kernel = Kernel::new(1);
        let begun = kernel.now();
        let count = Arc::new(AtomicU64::new(0));
        let (kernel_in, count_in) = (kernel.clone(), Arc::clone(&count));
        kernel.spawner(Group(1)).spawn(Box::pin(async move {
            loop {
                kernel_in.sleep_until(later(kernel_in.now(), 10)).await;
                count_in.fetch_add(1, Ordering::Relaxed);
            }
        }));
        kernel.run_until(later(begun, 25), || false);
        kernel.freeze(Group(1), true);
        kernel.run_until(later(begun, 1000), || false);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        kernel.freeze(Group(1), false);
        kernel.run_until(later(begun, 1025), || false);
        assert_eq!(count.load(Ordering::Relaxed), 5, "the timer that ran out meanwhile, and two more");
    }

    #[test]
    fn a_killed_group_does_nothing_more_and_the_same_seed_runs_the_same_way() {
        let run = |seed| {
            let kernel = Kernel::new(seed);
            let count = Arc::new(AtomicU64::new(0));
            for group in [1, 2] {
                let (kernel_in, count) = (kernel.clone(), Arc::clone(&count));
                kernel.spawner(Group(group)).spawn(Box::pin(async move {
                    loop {
                        kernel_in.sleep_until(later(kernel_in.now(), 1 + kernel_in.below(5))).await;
                        count.fetch_add(u64::from(group), Ordering::Relaxed);
                    }
                }));
            }
            let begun = kernel.now();
            kernel.run_until(later(begun, 100), || false);
            kernel.kill(Group(2));
            let before = count.load(Ordering::Relaxed);
            kernel.run_until(later(begun, 200), || false);
            (before, count.load(Ordering::Relaxed))
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
