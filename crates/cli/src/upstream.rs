//! The upstreams that `penstock up` may fall back to, from its command line.

use std::path::PathBuf;

use clap::Args;
use penstock_service::degradation::http_upstream::HttpUpstream;
use penstock_service::degradation::upstreams::{Outside, UpstreamConfig};
use serde_json::json;

use crate::error::CliError;

/// The name of the upstream that `--upstream` describes.
const ONLY: &str = "upstream";

/// Which upstreams, and what they may cost.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UpstreamArgs {
    /// An OpenAI-compatible server that answers when no worker here can, such as https://api.example.com/v1. It sees the
    /// prompts. With --workers 0 it answers everything. Its key is read from PENSTOCK_UPSTREAM_KEY.
    #[arg(long, value_name = "URL", requires_all = ["upstream_price", "upstream_usd_per_day"])]
    pub(crate) upstream: Option<String>,
    /// What it charges, in dollars per million tokens of prompt and of answer; 0/0 if nothing.
    #[arg(long, value_name = "IN/OUT", requires = "upstream")]
    pub(crate) upstream_price: Option<String>,
    /// The most dollars that may be spent there on a day.
    #[arg(long, value_name = "USD", requires = "upstream")]
    pub(crate) upstream_usd_per_day: Option<String>,
    /// Its name for our model; default: the same.
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub(crate) upstream_model: Option<String>,
    /// How far its address may reach: public, loopback (this machine too) or private (private networks too).
    #[arg(long, value_name = "REACH", requires = "upstream")]
    pub(crate) upstream_reach: Option<String>,
    /// A JSON file with a list of upstreams, tried in their order; the README describes its fields.
    #[arg(long, value_name = "FILE", conflicts_with = "upstream")]
    pub(crate) upstreams: Option<PathBuf>,
}

impl UpstreamArgs {
    /// The upstreams, ready to be asked; connects to none yet. `models` are ours.
    ///
    /// # Errors
    /// What is wrong with the file or the flags.
    pub(crate) fn outsides(&self, models: &[String]) -> Result<Vec<Outside>, CliError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let text = match (&self.upstreams, &self.upstream) {
            (Some(path), _) => std::fs::read_to_string(path).map_err(CliError::file("reading", path))?,
            (None, Some(url)) => self.described(url, models, lookup("PENSTOCK_UPSTREAM_KEY")),
            (None, None) => return Ok(Vec::new()),
        };
        let configs = UpstreamConfig::list(&text, lookup)?;
        configs.into_iter().map(|config| Ok(HttpUpstream::outside(config)?)).collect()
    }

    fn described(&self, url: &str, models: &[String], key: Option<String>) -> String {
        let price = self.upstream_price.as_deref().unwrap_or_default();
        let (input, output) = price.split_once('/').unwrap_or((price, price));
        let mut one = json!({
            "name": ONLY,
            "url": url,
            "usd_per_day": self.upstream_usd_per_day,
            "input_usd_per_million_tokens": input,
            "output_usd_per_million_tokens": output,
            "key": key.filter(|key| !key.is_empty()),
        });
        if let Some(reach) = &self.upstream_reach {
            one["reach"] = json!(reach);
        }
        if let Some(theirs) = &self.upstream_model {
            one["models"] = models.iter().map(|ours| (ours.clone(), json!(theirs))).collect();
        }
        json!([one]).to_string()
    }
}
