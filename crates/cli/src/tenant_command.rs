//! The command line of `penstock tenant`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

/// `penstock tenant`.
#[derive(Debug, Args)]
pub(crate) struct TenantCommand {
    #[command(subcommand)]
    pub(crate) action: TenantAction,
}

/// Which deployment, and how its answer is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// The data folder of the server. Default: the user's data folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Work on a deployment on AWS: names its tables as the functions do, by PENSTOCK_STAGE, PENSTOCK_CTL_TABLE and so on.
    #[cfg(feature = "aws")]
    #[arg(long, conflicts_with = "data")]
    pub(crate) aws: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do about tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantAction {
    /// Add a tenant, and make its first key, which is shown once.
    Add {
        /// Its id: 1 to 64 letters, digits and ._-:
        id: String,
        /// Make no key yet.
        #[arg(long)]
        no_key: bool,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        terms: TermArgs,
        #[command(flatten)]
        place: Place,
    },
    /// List all tenants.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a tenant's terms.
    Show {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Set terms; what is not named stays. Known everywhere within a minute.
    Set {
        /// The tenant.
        id: String,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        terms: TermArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Set limits; what is not named stays. Known everywhere within a minute.
    Limit {
        /// The tenant.
        id: String,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Make, list and revoke keys. A tenant may have several, so that one follows another without a gap.
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Where the ends of a tenant's background responses and batches are told.
    Webhook {
        #[command(subcommand)]
        action: WebhookAction,
    },
    /// What a tenant used, day by day (UTC).
    Usage {
        /// The tenant.
        id: String,
        /// The first day, YYYY-MM-DD. Default: 30 days up to the last.
        #[arg(long, value_name = "DAY")]
        from: Option<String>,
        /// The last day. Default: today.
        #[arg(long, value_name = "DAY")]
        to: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Take none of a tenant's requests any more; its jobs and records stay. Known everywhere within a minute.
    Suspend {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Remove all that is kept of a tenant: jobs, prompts, answers, keys, the tenant itself. Cannot be undone.
    ///
    /// Suspends the tenant, cancels what runs, and takes a minute at least, until every handler must have heard of it. It
    /// may be interrupted and given again. Prompts that wait in queues of SQS go with their messages, within the queues'
    /// retention (4 days at most); backups that you made are yours to remove.
    Erase {
        /// The tenant.
        id: String,
        /// Remove its usage too, which bills are made of.
        #[arg(long)]
        usage: bool,
        /// Do not ask whether that is meant.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Refuse the signed tokens of a tenant that were issued until now. Known everywhere within a minute; API keys are
    /// revoked one by one with `key revoke`.
    RevokeTokens {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Take its requests again.
    Resume {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// What to do about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Make a key and show it, once.
    New {
        /// The tenant.
        id: String,
        /// What its owner will know it by.
        #[arg(long, default_value = "")]
        label: String,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's keys: labels, when they were made, last used (within a day or so) and revoked.
    List {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key; it is refused everywhere within a minute.
    Revoke {
        /// The tenant.
        id: String,
        /// The key's id: the part between `ps_` and the next `_`.
        key: String,
        /// Leave its holders time to change over, such as 30m, 24h or 7d.
        #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "0s")]
        after: Duration,
        #[command(flatten)]
        place: Place,
    },
}

/// What to do about webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookAction {
    /// Add an endpoint and show the secret that its messages are signed with, once. Known everywhere within a minute.
    ///
    /// Messages are signed as Standard Webhooks says, so `client.webhooks.unwrap()` of the openai client verifies them.
    /// One that is not answered with 2xx is tried again for a day.
    Add {
        /// The tenant.
        id: String,
        /// An https URL; http to this machine alone, with --reach loopback.
        url: String,
        /// Send this event alone, such as batch.completed; may be given several times. Default: all.
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
        /// How far the URL may lead: public, loopback (this machine too) or private (private networks too).
        #[arg(long, default_value = "public", value_name = "REACH")]
        reach: String,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's endpoints.
    List {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Remove an endpoint; what is on its way to it ends.
    Remove {
        /// The tenant.
        id: String,
        /// The endpoint, we_...
        endpoint: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show what came of the newest messages; kept for a week.
    Deliveries {
        /// The tenant.
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// A tenant's limits.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Requests a minute.
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Tokens a minute, prompt and answer together.
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<u64>,
    /// Jobs at the same time, waiting ones included.
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,
    /// Dollars a day or month, such as 2.50/day or 100/month.
    #[arg(long, value_name = "USD/PERIOD")]
    pub(crate) budget: Option<String>,
    /// Requests a minute that are never held back for growing too fast.
    #[arg(long, value_name = "N")]
    pub(crate) ramp_floor: Option<u64>,
    /// How many percent a minute requests may grow beyond that.
    #[arg(long, value_name = "PERCENT")]
    pub(crate) ramp_growth: Option<u32>,
    /// Lift a limit; may be given several times.
    #[arg(long, value_name = "LIMIT")]
    pub(crate) lift: Vec<Lifted>,
}

/// A limit that a tenant need not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lifted {
    /// Jobs at the same time.
    Concurrency,
    /// Money.
    Budget,
    /// Growth.
    Ramp,
}

/// A tenant's other terms.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TermArgs {
    /// The best class it may have: p0 (interactive, first) to p3 (batch).
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Which answers may be given again: off, deterministic or all.
    #[arg(long, value_name = "RULE")]
    pub(crate) caching: Option<String>,
    /// Whether an upstream outside this deployment may answer, and so see its prompts.
    #[arg(long, value_name = "BOOL")]
    pub(crate) upstream: Option<bool>,
    /// Whether a smaller model may answer.
    #[arg(long, value_name = "BOOL")]
    pub(crate) smaller_model: Option<bool>,
    /// Whether a configured text may answer.
    #[arg(long, value_name = "BOOL")]
    pub(crate) default_answer: Option<bool>,
    /// Whether answers are kept once they are delivered.
    #[arg(long, value_name = "BOOL")]
    pub(crate) store: Option<bool>,
    /// For how many days they are. On AWS records are kept 7 days whatever is said here.
    #[arg(long, value_name = "N")]
    pub(crate) keep_days: Option<u32>,
    /// Whether jobs whose clients have gone run to their end.
    #[arg(long, value_name = "BOOL")]
    pub(crate) keep_orphans: Option<bool>,
}

/// Reads `90s`, `30m`, `24h` or `7d`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: write 90s, 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(secs).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(parse_time("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_time("0s"), Ok(Duration::ZERO));
        for bad in ["", "h", "24", "-1h", "1w", "1.5h", "ü"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
