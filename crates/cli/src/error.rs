//! What can go wrong at the command line: one line each, with what to do.

use std::path::PathBuf;

use penstock_gpu_worker::engine::LoadError;
use penstock_service::ports::PortError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("port {port} is taken: stop what uses it, or choose another with --port N (0 takes a free one)")]
    PortTaken { port: u16 },
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Open(#[from] penstock_sqlite::OpenError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Shelf(#[from] crate::models::shelf::ShelfError),
    #[error(transparent)]
    NoModel(#[from] crate::models::selection::NoModel),
    #[error(transparent)]
    Hub(#[from] crate::models::hub::HubError),
    #[error(transparent)]
    Download(#[from] crate::models::download::DownloadError),
    #[error("{source}; its files are kept in {}: once they are right, `penstock model add FOLDER --name NAME` takes them", folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: LoadError,
    },
    #[error(transparent)]
    OnTrial(#[from] penstock_gpu_worker::engine::trial::TrialError),
    #[error("{} cannot be served: what to do is above", .0.display())]
    NotServable(PathBuf),
    #[error("'{0}' makes vectors, which have no tokens to compare: name two models that answer")]
    NoAnswers(String),
    #[error("{} is not to be used, line {line}: {cause}", file.display())]
    Message { file: PathBuf, line: usize, cause: String },
    #[error("a process for a model cannot be started: {0}")]
    Trial(#[source] std::io::Error),
    #[error("'{0}' cannot be tried: why is above; `penstock model check` says more")]
    Tried(String),
    #[error(
        "{} is no checkpoint: name a folder with config.json and *.safetensors, as it was published, or hf:OWNER/NAME",
        .0.display()
    )]
    NoCheckpoint(PathBuf),
    #[error("two models are named alike ('{0}'): rename one of the folders")]
    SameName(String),
    #[error("'{}' cannot be a model's name: rename the folder to 1 to 64 characters", .0.display())]
    ModelName(PathBuf),
    #[error(transparent)]
    Upstream(#[from] penstock_service::degradation::upstreams::InvalidUpstream),
    #[error(transparent)]
    Issuer(#[from] penstock_service::tokens::issuer::InvalidIssuer),
    #[error(transparent)]
    IssuerClient(#[from] penstock_service::tokens::NoClient),
    #[error(transparent)]
    NoTls(#[from] penstock_service::degradation::http_upstream::NoClient),
    #[error("no TLS client can be made for traces: {0}")]
    Traces(#[source] reqwest::Error),
    #[error("the store does not work: {0}")]
    Store(#[from] PortError),
    #[error("{what} {} failed: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("this system names no folder for a user's {0}: set HOME, or name one with --data DIR")]
    NoHome(&'static str),
    #[error("no ONNX Runtime for {0}: install it (1.24 or newer) and name its library with --ort PATH")]
    NoLibraryFor(String),
    #[error(
        "ONNX Runtime could not be fetched: {0}; install it (`pip install onnxruntime`) and name its library with --ort PATH"
    )]
    Fetch(String),
    #[error("the server said {status}: {message}")]
    Answer { status: u16, message: String },
    #[error("no server answers at {url}: {cause}")]
    Unreachable { url: String, cause: String },
    #[error(
        "there is no data in {}: start `penstock up` first, or name the data folder of your server with --data DIR",
        .0.display()
    )]
    NoData(PathBuf),
    #[cfg(feature = "aws")]
    #[error("{0}; `--aws` needs what the functions' environment has, see the template's outputs")]
    Config(#[from] penstock_service::config::ConfigError),
    #[error(
        "no server runs on {}: start one with `penstock up`, or name another with --url URL --api-key KEY",
        .0.display()
    )]
    NoServer(PathBuf),
    #[error("the first line of {} names no 'url': is it a file of batch requests? see `penstock batch submit --help`", .0.display())]
    NoUrl(PathBuf),
    #[error("the batch's file is no good:\n{0}")]
    BatchFailed(String),
    #[error("this removes all that is kept of tenant {0} for good: say --yes if it is meant")]
    NotMeant(String),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    #[error("a built-in limit is malformed: {0:?}")]
    Limit(penstock_policy::gcra::InvalidLimit),
    #[error("a built-in name is malformed: {0}")]
    Name(#[source] penstock_policy::id::InvalidId),
    #[error("the engine has died; its last words are above. What waits stays queued: start again")]
    Died,
    #[error("{0}")]
    Trace(#[from] penstock_sim::trace::TraceError),
    #[error(transparent)]
    Scenario(#[from] penstock_sim::requests::scenario::InvalidScenario),
    #[error("no policy is called '{0}': there are {names}", names = penstock_sim::requests::policy::Policy::ALL.map(|policy| policy.name).join(", "))]
    NoPolicy(String),
    #[error("line {line} is no recorded tick: {cause}; `penstock fleet POOL --record FILE` writes them")]
    Tick { line: usize, cause: String },
    #[error("{0} ticks are planned otherwise now: the policy has changed since, or the record was")]
    Differ(usize),
    #[error("the result cannot be printed: {0}")]
    Print(#[source] std::io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

impl CliError {
    /// Says which file an operation failed on.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
