//! The encoder on ONNX Runtime: the vectors of an independent implementation, the same bits in any company, and errors that
//! name the place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_gpu_worker::engine::encoder::folder::EncoderError;
use penstock_gpu_worker::engine::encoder::graph::WiringError;
use penstock_gpu_worker::engine::encoder::load::EncoderGraphError;
use penstock_gpu_worker::engine::folder::FolderError;
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig, LoadError};
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Embedded, Embedding, Engine, EngineFault, PoolKind, Texts, TokenEvent};
use penstock_wire::embeddings::Inputs;
use serde_json::Value;
use support::{fixture, library, sequence};

/// A copy of the random encoder, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("penstock-encoder-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
        for file in ["config.json", "tokenizer.json", "modules.json", "model.onnx", "1_Pooling/config.json"] {
            std::fs::copy(fixture("random-encoder").join(file), folder.join(file)).unwrap();
        }
        Self(folder)
    }

    fn write(self, file: &str, text: &str) -> Self {
        std::fs::write(self.0.join(file), text).unwrap();
        self
    }

    fn remove(self, file: &str) -> Self {
        std::fs::remove_file(self.0.join(file)).unwrap();
        self
    }

    /// Pools otherwise, and leaves vectors as long as they are.
    fn pooling(self, mode: &str) -> Self {
        let modules = r#"[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]"#;
        self.write("modules.json", modules).write("1_Pooling/config.json", &format!(r#"{{"pooling_mode": "{mode}"}}"#))
    }

    fn load(&self) -> Result<AnyEngine, LoadError> {
        load(&self.0)
    }

    fn refusal(&self) -> LoadError {
        self.load().map(drop).expect_err("the folder is broken")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load(folder: &Path) -> Result<AnyEngine, LoadError> {
    let config = EngineConfig { window: Duration::from_millis(20), ..EngineConfig::new(folder, library()) };
    AnyEngine::load(&config, Metrics::new().recorder("", ""))
}

/// Real weights: tests/run converts all-MiniLM-L6-v2 and names its folder.
fn minilm() -> PathBuf {
    let folder = std::env::var_os("PENSTOCK_MINILM").map(PathBuf::from);
    folder.expect("PENSTOCK_MINILM must name the folder that fixtures/make_encoder.py made of all-MiniLM-L6-v2")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected_embeddings.json")).unwrap()).unwrap()
}

fn texts_of(expected: &Value) -> Vec<String> {
    serde_json::from_value(expected["texts"].clone()).unwrap()
}

async fn embed(
    engine: &AnyEngine,
    inputs: Inputs,
    dimensions: Option<u32>,
    class: Class,
) -> Result<Embedded, EngineFault> {
    let texts = Texts {
        job: JobId::new(Timestamp::from_millis(0), 7),
        tenant: TenantId::new("tester").unwrap(),
        class,
        embedding: Embedding::new(inputs, dimensions),
    };
    engine.embed(texts).await
}

async fn vectors(engine: &AnyEngine, texts: &[String]) -> Vec<Vec<f32>> {
    let embedded = embed(engine, Inputs::Texts(texts.to_vec()), None, Class::P0).await.unwrap();
    split(&embedded)
}

fn split(embedded: &Embedded) -> Vec<Vec<f32>> {
    let numbers: Vec<f32> = embedded.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    numbers.chunks_exact(embedded.dimensions as usize).map(<[f32]>::to_vec).collect()
}

fn close(ours: &[Vec<f32>], theirs: &Value, what: &str) {
    let theirs: Vec<Vec<f32>> = serde_json::from_value(theirs.clone()).unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let furthest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(ours.len() == theirs.len() && furthest < 1e-5, "{what}: {furthest}");
    }
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
}

#[test]
fn vectors_are_those_of_sentence_transformers_with_each_way_of_pooling() {
    let expected = expected();
    let texts = texts_of(&expected);
    for mode in ["mean", "cls", "lasttoken", "max"] {
        let engine = Folder::new(mode).pooling(mode).load().unwrap();
        close(&block_on(vectors(&engine, &texts)), &expected["random"][mode], mode);
    }
}

#[test]
fn vectors_of_a_published_model_are_those_of_sentence_transformers() {
    let engine = load(&minilm()).unwrap();
    assert_eq!((engine.info().kind, engine.info().context_length), (PoolKind::Embedding, 256));
    let expected = expected();
    let embedded = block_on(embed(&engine, Inputs::Texts(texts_of(&expected)), None, Class::P1)).unwrap();
    close(&split(&embedded), &expected["minilm"], "all-MiniLM-L6-v2");
    let tokens: Vec<u32> = serde_json::from_value(expected["minilm_tokens"].clone()).unwrap();
    assert_eq!(embedded.tokens, tokens.iter().sum::<u32>());
    println!("all-MiniLM-L6-v2: {:.0} tokens/s with full calls", engine.info().tokens_per_second);
}

#[test]
fn the_same_text_gives_the_same_bits_whatever_runs_beside_it() {
    for folder in [fixture("random-encoder"), minilm()] {
        let engine = load(&folder).unwrap();
        let texts: Vec<String> =
            (0..40).map(|n| (0..=n % 12).map(|word| format!("word{} ", (word * 7 + n) % 10)).collect()).collect();
        let alone = |text| block_on(vectors(&engine, std::slice::from_ref(text))).remove(0);
        let alone: Vec<Vec<f32>> = texts.iter().map(alone).collect();
        assert_eq!(block_on(vectors(&engine, &texts)), alone, "one request");
        let other = |n: usize| (n * 11 + 3) % texts.len();
        let scattered = block_on(async {
            let requests = (0..texts.len()).rev().map(|n| {
                let inputs = Inputs::Texts(vec![texts[n].clone(), texts[other(n)].clone()]);
                embed(&engine, inputs, None, Class::ALL[n % 4])
            });
            all_of(requests.collect()).await
        });
        for (n, embedded) in (0..texts.len()).rev().zip(scattered) {
            assert_eq!(split(&embedded.unwrap()), [alone[n].clone(), alone[other(n)].clone()], "{n}");
        }
    }
}

/// All at once, in their order.
async fn all_of<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, result) in &mut futures {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if futures.iter().all(|(_, result)| result.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}

#[test]
fn token_ids_give_the_vector_of_the_text_they_are_of() {
    let engine = load(&fixture("random-encoder")).unwrap();
    // [CLS] the water [SEP]
    let vocabulary: Value =
        serde_json::from_slice(&std::fs::read(fixture("random-encoder/tokenizer.json")).unwrap()).unwrap();
    let ids = ["[CLS]", "the", "water", "[SEP]"]
        .map(|token| serde_json::from_value::<u32>(vocabulary["model"]["vocab"][token].clone()).unwrap());
    let of_ids = block_on(embed(&engine, Inputs::Tokens(vec![ids.to_vec()]), None, Class::P0)).unwrap();
    assert_eq!(of_ids.tokens, 4);
    assert_eq!(split(&of_ids), block_on(vectors(&engine, &["The water".to_owned()])));
}

#[test]
fn vectors_are_shortened_and_have_length_one_again() {
    let engine = load(&fixture("random-encoder")).unwrap();
    let of = |dimensions| block_on(embed(&engine, Inputs::Texts(vec!["lamp".to_owned()]), dimensions, Class::P0));
    let (whole, short) = (split(&of(None).unwrap()).remove(0), split(&of(Some(5)).unwrap()).remove(0));
    let norm = |vector: &[f32]| vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    assert!((norm(&whole) - 1.0).abs() < 1e-6 && (norm(&short) - 1.0).abs() < 1e-6);
    let scale = norm(&whole[..5]);
    assert!(short.len() == 5 && short.iter().zip(&whole).all(|(short, whole)| (short * scale - whole).abs() < 1e-6));
    assert!(matches!(of(Some(33)), Err(EngineFault::BadRequest { param: Some(param), .. }) if param == "dimensions"));
    let config = std::fs::read_to_string(fixture("random-encoder/config.json")).unwrap();
    let untrained =
        Folder::new("untrained").write("config.json", &config.replace("\"is_matryoshka\": true", "\"x\": 1"));
    let engine = untrained.load().unwrap();
    let refused = block_on(embed(&engine, Inputs::Texts(vec!["lamp".to_owned()]), Some(5), Class::P0));
    assert!(refused.unwrap_err().to_string().contains("cannot be shortened"));
}

#[test]
fn what_the_model_cannot_do_is_said_in_time() {
    let engine = load(&fixture("random-encoder")).unwrap();
    let long = "water ".repeat(63);
    let refused = block_on(embed(&engine, Inputs::Texts(vec!["a".to_owned(), long]), None, Class::P0)).unwrap_err();
    let EngineFault::BadRequest { code, param, message } = refused else { panic!("{refused}") };
    assert_eq!((code.as_str(), param.as_deref()), ("context_length_exceeded", Some("input[1]")));
    assert!(message.contains("65 tokens") && message.contains("at most 64"), "{message}");
    let mut stream = block_on(engine.start(sequence("hi")));
    let Ok(TokenEvent::Failed(EngineFault::BadRequest { code, .. })) = stream.try_recv() else {
        panic!("it is no chat model")
    };
    assert_eq!(code, "wrong_model_kind");
    let generating = AnyEngine::load(&support::config(1), Metrics::new().recorder("", "")).unwrap();
    assert_eq!(generating.info().kind, PoolKind::Generation);
    let refused = block_on(embed(&generating, Inputs::Texts(vec!["a".to_owned()]), None, Class::P0)).unwrap_err();
    assert!(refused.to_string().contains("/v1/chat/completions"), "{refused}");
}

#[test]
fn a_stopped_encoder_gives_everything_back() {
    let folder = fixture("random-encoder");
    let config = EngineConfig { window: Duration::from_secs(3600), ..EngineConfig::new(folder, library()) };
    let engine = AnyEngine::load(&config, Metrics::new().recorder("", "")).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(embed(&engine, Inputs::Texts(vec!["lamp".to_owned()]), None, Class::P1)));
        let stopping = scope.spawn(|| {
            // Whether the request is in hand or still on its way, it is told.
            while engine.is_alive() {
                engine.stop();
            }
        });
        stopping.join().unwrap();
        assert_eq!(waiting.join().unwrap(), Err(EngineFault::Stopping));
    });
    assert_eq!(
        block_on(embed(&engine, Inputs::Texts(vec!["lamp".to_owned()]), None, Class::P1)),
        Err(EngineFault::Stopping)
    );
}

#[test]
fn a_broken_folder_is_refused_by_its_file_and_field() {
    let config = std::fs::read_to_string(fixture("random-encoder/config.json")).unwrap();
    let error = Folder::new("config")
        .write("config.json", &config.replace("\"hidden_size\": 32", "\"hidden_size\": 0"))
        .refusal();
    assert!(
        matches!(
            error,
            LoadError::EncoderFolder(EncoderError::Folder(FolderError::Field { field: "hidden_size", .. }))
        ),
        "{error}"
    );
    let error = Folder::new("size")
        .write("config.json", &config.replace("\"hidden_size\": 32", "\"hidden_size\": 64"))
        .refusal();
    assert!(
        matches!(error, LoadError::EncoderGraph { source: EncoderGraphError::Size { config: 64, graph: 32 }, .. }),
        "{error}"
    );
    let error = Folder::new("tokenizer").write("tokenizer.json", "{}").refusal();
    assert!(matches!(error, LoadError::EncoderFolder(EncoderError::Folder(FolderError::Tokenizer { .. }))), "{error}");
    let error = Folder::new("vocabulary")
        .write("config.json", &config.replace("\"vocab_size\": ", "\"vocab_size\": 1, \"x\": "))
        .refusal();
    assert!(
        matches!(error, LoadError::EncoderFolder(EncoderError::Folder(FolderError::ForeignTokenizer { .. }))),
        "{error}"
    );
    let error = Folder::new("no-tokenizer").remove("tokenizer.json").refusal();
    assert!(matches!(error, LoadError::EncoderFolder(EncoderError::Folder(FolderError::Unreadable { .. }))), "{error}");
    let error = Folder::new("graph").write("model.onnx", "no graph").refusal();
    assert!(matches!(error, LoadError::EncoderGraph { source: EncoderGraphError::Runtime(_), .. }), "{error}");
    let decoder = Folder::new("decoder");
    std::fs::copy(fixture("random-fp32").join("model.onnx"), decoder.0.join("model.onnx")).unwrap();
    let error = decoder.refusal();
    assert!(
        matches!(&error, LoadError::EncoderGraph { source: EncoderGraphError::Wiring(WiringError::UnknownInput(name)), .. } if name.contains("past")),
        "{error}"
    );
}
