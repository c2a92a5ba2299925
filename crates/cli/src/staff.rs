//! The workers of this machine: engines and what feeds them, replaced when they die.
//!
//! An engine dies when a call of its model hangs or it gives no numbers any more. Its jobs go back to the queue by
//! themselves; here another engine is loaded in its place, again and again with growing pauses, since a front door
//! without workers still takes requests that will be answered once there is one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_gpu_worker::engine::metrics::Recorder;
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig, LoadError};
use penstock_policy::id::{PoolId, WorkerId};
use penstock_service::ports::Engine;
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

/// Everybody who works here.
pub(crate) struct Staff {
    posts: Vec<(Arc<Post>, JoinHandle<()>)>,
}

/// One worker's place: the model it runs, and who holds it now.
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
    /// Puts everybody to work.
    ///
    /// # Errors
    /// [`CliError::Name`] if a worker's name is no name, which it is.
    pub(crate) fn employ(candidates: Vec<Candidate>, service: impl Fn() -> Arc<Service>) -> Result<Self, CliError> {
        let employ = |(number, candidate): (usize, Candidate)| {
            let Candidate { model, engine, config, recorder } = candidate;
            let worker = WorkerId::new(&format!("local-{}-{number}", std::process::id())).map_err(CliError::Name)?;
            let service = service();
            let consumer = consumer(&service, &engine, &model.pool, &worker);
            let post = Arc::new(Post {
                service,
                pool: model.pool,
                worker,
                config,
                recorder,
                stopping: AtomicBool::new(false),
                holder: Mutex::new((consumer, engine)),
            });
            let work = Arc::clone(&post);
            Ok((post, tokio::spawn(async move { work.work().await })))
        };
        let posts: Result<_, CliError> = candidates.into_iter().enumerate().map(employ).collect();
        Ok(Self { posts: posts? })
    }

    /// Whether anybody works here.
    pub(crate) fn is_empty(&self) -> bool {
        self.posts.is_empty()
    }

    /// Takes no more work, lets what runs go on for `drain` at most, and stops the engines, which gives the rest back.
    pub(crate) async fn stop(self, drain: Duration) {
        let until = tokio::time::Instant::now() + drain;
        for (post, _) in &self.posts {
            post.stopping.store(true, Ordering::SeqCst);
            post.holder().0.drain();
        }
        for (post, _) in &self.posts {
            let (consumer, _) = post.holder();
            while consumer.running() > 0 && tokio::time::Instant::now() < until {
                consumer.wait_for_change().await;
            }
        }
        for (post, task) in self.posts {
            let (_, engine) = post.holder();
            // Joins the engine's threads, which end within a step.
            let _ = tokio::task::spawn_blocking(move || engine.stop()).await;
            let _ = task.await;
        }
    }
}

impl Post {
    fn holder(&self) -> (Consumer, Arc<AnyEngine>) {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
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
