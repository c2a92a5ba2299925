//! The command line of `penstock batch`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `penstock batch`.
#[derive(Debug, Args)]
pub(crate) struct BatchCommand {
    #[command(subcommand)]
    pub(crate) action: BatchAction,
}

/// Which server, as whom, and how its answer is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct Client {
    /// The data folder of a server on this machine. Default: the user's data folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Another server, such as http://127.0.0.1:8700; needs --api-key.
    #[arg(long, value_name = "URL", requires = "api_key")]
    pub(crate) url: Option<String>,
    /// The key for --url.
    #[arg(long, value_name = "KEY", env = "PENSTOCK_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Print the answer as JSON, and no progress.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do about batches.
#[derive(Debug, Subcommand)]
pub(crate) enum BatchAction {
    /// Send a file of requests, one JSON object a line, and begin the batch.
    ///
    /// A line is {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}; all lines go to the
    /// same url. The file is sent in parts, so it may have 200 MB.
    Submit {
        /// The file.
        file: PathBuf,
        /// Within which time it is to be done: 1h, 4h or 24h.
        #[arg(long, default_value = "24h", value_name = "TIME")]
        window: String,
        /// Where the requests go. Default: the url of the first line.
        #[arg(long, value_name = "PATH")]
        endpoint: Option<String>,
        /// A pair of your own to find it by; may be given several times.
        #[arg(long = "metadata", value_name = "NAME=VALUE")]
        metadata: Vec<String>,
        /// Stay until it is over, as `penstock batch watch` does.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Show a batch's progress until it is over. Stopping to watch stops nothing else.
    Watch {
        /// The batch, batch_...
        id: String,
        #[command(flatten)]
        client: Client,
    },
    /// Show a batch, and fetch its answers as far as they are there.
    Get {
        /// The batch.
        id: String,
        /// Write the answers to this file.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write what was not answered to this file.
        #[arg(long, value_name = "FILE")]
        errors: Option<PathBuf>,
        #[command(flatten)]
        client: Client,
    },
    /// Cancel a batch; what is done by then stays.
    Cancel {
        /// The batch.
        id: String,
        #[command(flatten)]
        client: Client,
    },
    /// List batches, newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        #[command(flatten)]
        client: Client,
    },
}
