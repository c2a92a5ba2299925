//! The workers of this machine: engines and what feeds them, replaced when they die, hired and dismissed as the fleet's
//! plan says.
//!
//! Workers live in this process: they share the store, which has one process, and its bells. An engine dies when a call of
//! its model hangs or it gives no numbers any more. Its jobs go back to the queue by themselves; here another engine is
//! loaded in its place, again and again with growing pauses, since a front door without workers still takes requests that
//! will be answered once there is one. A worker that is dismissed gives its model's memory back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_gpu_worker::engine::metrics::Recorder;
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig, LoadError};
use penstock_policy::fleet::offering::Stage;
use penstock_policy::id::{PoolId, WorkerId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Clock, Engine};
use penstock_service::system::SystemClock;
use penstock_service::{Consumer, Service, Workplace};
use tokio::task::JoinHandle;

use crate::error::CliError;
use crate::models::Model;

/// How long to wait before another engine is tried, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An engine that is ready, and what another like it is made from.
pub(crate) struct Candidate {
    pub(crate) model: Model,
    pub(crate) engine: Arc<AnyEngine>,
    pub(crate) config: EngineConfig,
    pub(crate) recorder: Recorder,
}

/// Everybody who works here. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Staff(Arc<Inner>);

struct Inner {
    /// Gives each worker use cases of its own.
    service: Box<dyn Fn() -> Arc<Service> + Send + Sync>,
    seats: Mutex<BTreeMap<WorkerId, Seat>>,
    named: AtomicU32,
}

/// One worker's place, from the moment it is wanted.
struct Seat {
    pool: PoolId,
    since: Timestamp,
    /// Who sits there; nobody while its engine is being loaded.
    post: Option<(Arc<Post>, JoinHandle<()>)>,
}

/// A worker as the fleet's plan sees it.
pub(crate) struct Seen {
    pub(crate) id: WorkerId,
    pub(crate) stage: Stage,
    pub(crate) since: Timestamp,
    pub(crate) running: u32,
}

/// A worker: the model it runs, and the engine it has now.
struct Post {
    service: Arc<Service>,
    pool: PoolId,
    worker: WorkerId,
    config: EngineConfig,
    recorder: Recorder,
    stopping: AtomicBool,
    holder: Mutex<(Consumer, Arc<AnyEngine>)>,
}

impl Staff {
    /// Nobody yet. `service` makes the use cases of one worker.
    pub(crate) fn new(service: impl Fn() -> Arc<Service> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { service: Box::new(service), seats: Mutex::default(), named: AtomicU32::new(0) }))
    }

    /// Puts an engine that is ready to work.
    ///
    /// # Errors
    /// [`CliError::Name`] if a worker's name is no name, which it is.
    pub(crate) fn employ(&self, candidate: Candidate) -> Result<(), CliError> {
        let id = self.reserve(&candidate.model.pool)?;
        self.seat(&id, candidate);
        Ok(())
    }

    /// Wants a worker whose engine `load` makes, which takes a while; if it cannot, the place is free again.
    ///
    /// # Errors
    /// As [`Staff::employ`].
    pub(crate) fn hire(
        &self,
        pool: &PoolId,
        load: impl FnOnce() -> Result<Candidate, LoadError> + Send + 'static,
    ) -> Result<(), CliError> {
        let (id, staff) = (self.reserve(pool)?, self.clone());
        tokio::spawn(async move {
            let what = match tokio::task::spawn_blocking(load).await {
                Ok(Ok(candidate)) => return staff.seat(&id, candidate),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "loading panicked".to_owned(),
            };
            tracing::error!(worker = %id, %what, "no engine can be started for another worker");
            staff.seats().remove(&id);
        });
        Ok(())
    }

    fn reserve(&self, pool: &PoolId) -> Result<WorkerId, CliError> {
        let number = self.0.named.fetch_add(1, Ordering::Relaxed);
        let id = WorkerId::new(&format!("local-{}-{number}", std::process::id())).map_err(CliError::Name)?;
        let seat = Seat { pool: pool.clone(), since: SystemClock.now(), post: None };
        self.seats().insert(id.clone(), seat);
        Ok(id)
    }

    fn seat(&self, id: &WorkerId, candidate: Candidate) {
        let Candidate { model, engine, config, recorder } = candidate;
        let service = (self.0.service)();
        let mut seats = self.seats();
        let Some(seat) = seats.get_mut(id) else {
            // Not wanted any more.
            drop(seats);
            tokio::task::spawn_blocking(move || engine.stop());
            return;
        };
        let consumer = consumer(&service, &engine, &model.pool, id);
        let post = Arc::new(Post {
            service,
            pool: model.pool,
            worker: id.clone(),
            config,
            recorder,
            stopping: AtomicBool::new(false),
            holder: Mutex::new((consumer, engine)),
        });
        let work = Arc::clone(&post);
        seat.post = Some((post, tokio::spawn(async move { work.work().await })));
    }

    /// Whether anybody works here, or is about to.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats().is_empty()
    }

    /// The workers of a pool.
    pub(crate) fn of_pool(&self, pool: &PoolId) -> Vec<Seen> {
        let seats = self.seats();
        let of_pool = seats.iter().filter(|(_, seat)| seat.pool == *pool);
        of_pool
            .map(|(id, seat)| {
                let running = seat.post.as_ref().map_or(0, |(post, _)| post.holder().0.running());
                let stage = match &seat.post {
                    None => Stage::Launching,
                    Some((post, _)) if !post.is_stopping() => Stage::Ready,
                    Some(_) if running == 0 => Stage::Drained,
                    Some(_) => Stage::Draining,
                };
                let running = u32::try_from(running).unwrap_or(u32::MAX);
                Seen { id: id.clone(), stage, since: seat.since, running }
            })
            .collect()
    }

    /// Lets a worker finish what it has and take nothing new. Who has gone, or has not come yet, is left as it is.
    pub(crate) fn drain(&self, id: &WorkerId) {
        if let Some((post, _)) = self.seats().get(id).and_then(|seat| seat.post.as_ref()) {
            post.drain();
        }
    }

    /// Ends a worker, and gives its model's memory back. What it was running goes back to its queue.
    pub(crate) fn dismiss(&self, id: &WorkerId) {
        let gone = self.seats().remove(id);
        if let Some((post, task)) = gone.and_then(|seat| seat.post) {
            post.drain();
            tokio::spawn(leave(post, task));
        }
    }

    /// Takes no more work, lets what runs go on for `drain` at most, and stops the engines, which gives the rest back.
    pub(crate) async fn stop(self, drain: Duration) {
        let until = tokio::time::Instant::now() + drain;
        let seats = std::mem::take(&mut *self.seats());
        let posts: Vec<_> = seats.into_values().filter_map(|seat| seat.post).collect();
        for (post, _) in &posts {
            post.drain();
        }
        for (post, _) in &posts {
            let (consumer, _) = post.holder();
            while consumer.running() > 0 && tokio::time::Instant::now() < until {
                consumer.wait_for_change().await;
            }
        }
        for (post, task) in posts {
            leave(post, task).await;
        }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Seat>> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops a worker's engine, joining its threads, which end within a step, and waits until the worker has signed off.
async fn leave(post: Arc<Post>, task: JoinHandle<()>) {
    let (_, engine) = post.holder();
    let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
    let _ = task.await;
}

impl Post {
    fn holder(&self) -> (Consumer, Arc<AnyEngine>) {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn drain(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.holder().0.drain();
    }

    async fn work(&self) {
        loop {
            let (consumer, engine) = self.holder();
            consumer.run().await;
            if self.is_stopping() {
                return;
            }
            tracing::error!(worker = %self.worker, "the engine has died; another one takes its place");
            // What is left of it is freed before the next one needs the memory.
            let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
            let Some(engine) = self.replacement().await else {
                return;
            };
            let consumer = consumer_of(self, &engine);
            *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = (consumer.clone(), engine);
            if self.is_stopping() {
                consumer.drain();
            }
        }
    }

    /// Another engine, however long it takes; `None` if it is not needed any more.
    async fn replacement(&self) -> Option<Arc<AnyEngine>> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (config, recorder) = (self.config.clone(), self.recorder.clone());
            let loading = tokio::task::spawn_blocking(move || AnyEngine::load(&config, recorder));
            match loading.await {
                Ok(Ok(engine)) => return Some(Arc::new(engine)),
                Ok(Err(error)) => complain(&self.worker, Some(&error), pause),
                Err(_) => complain(&self.worker, None, pause),
            }
            tokio::time::sleep(pause).await;
            if self.is_stopping() {
                return None;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn complain(worker: &WorkerId, error: Option<&LoadError>, pause: Duration) {
    let what = error.map_or_else(|| "loading panicked".to_owned(), ToString::to_string);
    tracing::error!(%worker, %what, ?pause, "no engine can be started; another try follows");
}

fn consumer_of(post: &Post, engine: &Arc<AnyEngine>) -> Consumer {
    consumer(&post.service, engine, &post.pool, &post.worker)
}

fn consumer(service: &Arc<Service>, engine: &Arc<AnyEngine>, pool: &PoolId, worker: &WorkerId) -> Consumer {
    Consumer::new(Workplace {
        service: Arc::clone(service),
        engine: Arc::clone(engine) as Arc<dyn Engine>,
        pool: pool.clone(),
        worker: worker.clone(),
    })
}
