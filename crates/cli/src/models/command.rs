//! The command line of `penstock model`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use penstock_gpu_worker::engine::device::Device;
use penstock_policy::address::Reach;

use super::compare::Compare;
use super::quantize::Quantize;
use super::source::Source;
use super::trial::TrialArgs;

/// What to do about models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Add a model: fetch it from a hub, or copy it from a folder.
    ///
    /// Only the files that serving needs are taken. Each is checked against the checksum that the hub states; what an
    /// interruption left is gone on with when the same command is given again. The model appears whole or not at all.
    #[command(after_help = "Examples:
  penstock model add ./my-model
  penstock model add hf:OWNER/NAME --hub https://hub.example.com
  penstock model add hf:OWNER/NAME@v1.0 --folder cpu/int4 --name small
Then: penstock up --model small")]
    Add(Add),
    /// List the models that can be served by name.
    List {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load a model and tell what it is, what it takes, how fast it is here, and what is missing.
    ///
    /// Ends with 1 if it cannot be served.
    Check {
        /// A model by its name, or its folder.
        #[arg(value_name = "NAME|DIR")]
        model: PathBuf,
        #[command(flatten)]
        trial: TrialArgs,
        /// Print what was found as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare two models, such as two precisions of the same weights: speed, memory, agreement of their answers.
    #[command(after_help = "Example: penstock model compare my-model-fp32 my-model-int4 --prompts questions.txt")]
    Compare(Compare),
    /// Try a model in this process, as `compare` asks on standard input.
    #[command(hide = true)]
    Try {
        /// Its folder.
        folder: PathBuf,
        #[command(flatten)]
        trial: TrialArgs,
    },
    /// Print the line that makes a model for serving, with smaller weights, of a published checkpoint.
    #[command(after_help = "Example: penstock model quantize hf:OWNER/NAME --precision int4")]
    Quantize(Quantize),
    /// Remove a model that was added, with its files.
    ///
    /// A server that runs it goes on, but cannot load it again.
    Remove {
        /// Its name.
        name: String,
        /// Print what was removed as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `penstock model add`.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A folder, or hf:OWNER/NAME for a repository on a hub; @REV behind it names a branch, tag or commit other than main.
    #[arg(value_name = "DIR|hf:OWNER/NAME[@REV]")]
    pub(crate) source: Source,
    /// What clients write into `model`. Default: the repository's or the folder's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The folder within the repository, where it holds several models.
    #[arg(long, value_name = "PATH")]
    pub(crate) folder: Option<String>,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    /// Print what was added as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which hub. A token for it is read from PENSTOCK_HUB_TOKEN or HF_TOKEN.
#[derive(Clone, Debug, Args)]
pub(crate) struct HubArgs {
    /// The hub's address. HF_ENDPOINT is read too.
    #[arg(long, value_name = "URL", env = "PENSTOCK_HUB")]
    pub(crate) hub: Option<String>,
    /// How far its address, and those that it redirects to, may reach: public, loopback (this machine too) or private
    /// (private networks too).
    #[arg(long, value_name = "REACH", env = "PENSTOCK_HUB_REACH", default_value = "public", value_parser = reach)]
    pub(crate) hub_reach: Reach,
}

impl ModelCommand {
    /// What it computes on, if it does.
    pub(crate) fn device(&self) -> Option<&Device> {
        match self {
            Self::Check { trial, .. } | Self::Try { trial, .. } => Some(&trial.device),
            // The processes that it starts see to it.
            Self::Compare(_) | Self::Add(_) | Self::List { .. } | Self::Remove { .. } | Self::Quantize(_) => None,
        }
    }
}

fn reach(text: &str) -> Result<Reach, &'static str> {
    Reach::from_name(text).ok_or("use public, loopback or private")
}
