//! A model of either kind, told apart by its folder.

use async_trait::async_trait;
use penstock_service::ports::{Embedded, Engine, EngineFault, EngineInfo, PoolKind, Sequence, Texts, TokenStream};

use super::OnnxEngine;
use super::encoder::EncoderEngine;
use super::encoder::folder::EncoderFolder;
use super::load::{EngineConfig, LoadError};
use super::metrics::Recorder;

/// An engine that generates or one that makes vectors.
pub enum AnyEngine {
    /// Of onnxruntime-genai's folders.
    Generating(OnnxEngine),
    /// Of an encoder's folder.
    Encoding(EncoderEngine),
}

impl AnyEngine {
    /// What a folder's model makes.
    #[must_use]
    pub fn kind_of(dir: &std::path::Path) -> PoolKind {
        if EncoderFolder::is_one(dir) { PoolKind::Embedding } else { PoolKind::Generation }
    }

    /// Loads the model of a folder, of whichever kind it is.
    ///
    /// # Errors
    /// [`LoadError`], saying which file, field or setting is wrong.
    pub fn load(config: &EngineConfig, recorder: Recorder) -> Result<Self, LoadError> {
        match Self::kind_of(&config.model_dir) {
            PoolKind::Generation => OnnxEngine::load_recorded(config, recorder).map(Self::Generating),
            PoolKind::Embedding => EncoderEngine::load(config, recorder).map(Self::Encoding),
        }
    }

    /// Ends everything that runs, and waits for the engine's threads.
    pub fn stop(&self) {
        match self {
            Self::Generating(engine) => engine.stop(),
            Self::Encoding(engine) => engine.stop(),
        }
    }

    fn engine(&self) -> &dyn Engine {
        match self {
            Self::Generating(engine) => engine,
            Self::Encoding(engine) => engine,
        }
    }
}

#[async_trait]
impl Engine for AnyEngine {
    fn info(&self) -> &EngineInfo {
        self.engine().info()
    }

    fn steps(&self) -> u64 {
        self.engine().steps()
    }

    fn is_alive(&self) -> bool {
        self.engine().is_alive()
    }

    async fn start(&self, sequence: Sequence) -> TokenStream {
        self.engine().start(sequence).await
    }

    async fn embed(&self, texts: Texts) -> Result<Embedded, EngineFault> {
        self.engine().embed(texts).await
    }
}
