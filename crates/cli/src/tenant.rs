//! `penstock tenant`.

use std::io::Write;
use std::time::Duration;

use axum::http::Method;
use penstock_policy::id::{KeyId, TenantId};
use penstock_service::ports::Clock;
use penstock_service::system::SystemClock;
use penstock_wire::admin::{EraseSome, Erased, KeyList, KeyShown, NewKey, NewTenant, TenantList, TenantShown, Terms};
use penstock_wire::usage::{UsageOfDay, UsageReport, Used};
use penstock_wire::webhooks::{DeliveryList, DeliveryShown, EndpointList, EndpointRemoved, EndpointShown, NewEndpoint};
use serde::Serialize;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::error::CliError;
use crate::tenant_command::{
    KeyAction, Lifted, LimitArgs, Place, TenantAction, TenantCommand, TermArgs, WebhookAction,
};

/// Does what is asked about tenants.
pub(crate) async fn run(command: TenantCommand) -> Result<(), CliError> {
    match command.action {
        TenantAction::Add { id, no_key, limits, terms, place } => {
            let new = NewTenant { id, terms: terms_of(&limits, &terms, None) };
            add(&new, no_key, &place).await
        }
        TenantAction::List { place } => {
            let list: TenantList = Desk::open(&place).await?.ask(Method::GET, "/admin/v1/tenants", &json!({})).await?;
            show(&place, &list, || {
                for tenant in &list.data {
                    let Terms { class, requests_per_minute, tokens_per_minute, suspended, .. } = &tenant.terms;
                    let state = if *suspended == Some(true) { "  suspended" } else { "" };
                    print(&format!(
                        "{:<24} {}  {} requests and {} tokens a minute{state}",
                        tenant.id,
                        class.as_deref().unwrap_or_default(),
                        requests_per_minute.unwrap_or_default(),
                        tokens_per_minute.unwrap_or_default(),
                    ));
                }
            });
            Ok(())
        }
        TenantAction::Show { id, place } => {
            let shown: TenantShown = Desk::open(&place).await?.ask(Method::GET, &of(&id, "")?, &json!({})).await?;
            show(&place, &shown, || print_terms(&shown));
            Ok(())
        }
        TenantAction::Set { id, limits, terms, place } => set(&id, terms_of(&limits, &terms, None), &place).await,
        TenantAction::Limit { id, limits, place } => {
            set(&id, terms_of(&limits, &TermArgs::default(), None), &place).await
        }
        TenantAction::Suspend { id, place } => suspend(&id, true, &place).await,
        TenantAction::Resume { id, place } => suspend(&id, false, &place).await,
        TenantAction::RevokeTokens { id, place } => revoke_tokens(&id, &place).await,
        TenantAction::Key { action } => key(action).await,
        TenantAction::Webhook { action } => webhook(action).await,
        TenantAction::Erase { id, usage, yes, place } => erase(&id, usage, yes, &place).await,
        TenantAction::Usage { id, from, to, place } => {
            let days: Vec<String> = [("from", from), ("to", to)]
                .into_iter()
                .filter_map(|(name, day)| day.map(|day| format!("{name}={}", plain(&day))))
                .collect();
            let path = of(&id, &format!("/usage?{}", days.join("&")))?;
            let report: UsageReport = Desk::open(&place).await?.ask(Method::GET, &path, &json!({})).await?;
            show(&place, &report, || print_usage(&report));
            Ok(())
        }
    }
}

async fn add(new: &NewTenant, no_key: bool, place: &Place) -> Result<(), CliError> {
    let desk = Desk::open(place).await?;
    let shown: TenantShown = desk.ask(Method::POST, "/admin/v1/tenants", new).await?;
    if no_key {
        show(place, &shown, || print_terms(&shown));
        return Ok(());
    }
    let first = NewKey { label: "first".to_owned() };
    let key: KeyShown = desk.ask(Method::POST, &of(&shown.id, "/keys")?, &first).await?;
    show(place, &json!({"tenant": shown, "key": key}), || {
        print_terms(&shown);
        print_new_key(&key);
    });
    Ok(())
}

async fn set(id: &str, terms: Terms, place: &Place) -> Result<(), CliError> {
    let shown: TenantShown = Desk::open(place).await?.ask(Method::PATCH, &of(id, "")?, &terms).await?;
    show(place, &shown, || print_terms(&shown));
    Ok(())
}

async fn suspend(id: &str, suspended: bool, place: &Place) -> Result<(), CliError> {
    let terms = terms_of(&LimitArgs::default(), &TermArgs::default(), Some(suspended));
    let shown: TenantShown = Desk::open(place).await?.ask(Method::PATCH, &of(id, "")?, &terms).await?;
    show(place, &shown, || {
        let taken = if suspended { "refused" } else { "taken" };
        print(&format!("requests of {} are {taken}, everywhere within a minute", shown.id));
    });
    Ok(())
}

async fn revoke_tokens(id: &str, place: &Place) -> Result<(), CliError> {
    // Tokens say their seconds only: those of the second that runs are refused with the rest.
    let bound = SystemClock.now().as_secs() + 1;
    let terms = terms_of(&LimitArgs::default(), &TermArgs::default(), None);
    let terms = Terms { tokens_not_before: Some(bound), ..terms };
    let shown: TenantShown = Desk::open(place).await?.ask(Method::PATCH, &of(id, "")?, &terms).await?;
    show(place, &shown, || {
        print(&format!(
            "tokens of {} issued before {} UTC are refused, everywhere within a minute",
            shown.id,
            moment(bound)
        ));
    });
    Ok(())
}

/// How long to wait before what is still held is looked at again.
const LET_GO: Duration = Duration::from_secs(3);

async fn erase(id: &str, usage: bool, yes: bool, place: &Place) -> Result<(), CliError> {
    let path = of(id, "/erase")?;
    if !yes {
        return Err(CliError::NotMeant(id.to_owned()));
    }
    let desk = Desk::open(place).await?;
    let (mut jobs, mut traces, mut cursor) = (0, 0, None);
    loop {
        let part: Erased = desk.ask(Method::POST, &path, &EraseSome { cursor, usage }).await?;
        (jobs, traces) = (jobs + part.jobs, traces + part.traces);
        let Some(next) = part.next else { break };
        let pause = if part.waiting { ", waiting until nobody works for it any more" } else { "" };
        crate::progress(&format!("{jobs} jobs and {traces} traces of {id} removed{pause}"));
        if part.waiting {
            tokio::time::sleep(LET_GO).await;
        }
        cursor = Some(next);
    }
    show(place, &json!({"tenant": id, "jobs": jobs, "traces": traces}), || {
        print(&format!("tenant {id} is gone: {jobs} jobs, {traces} markers and messages, all keys"));
    });
    Ok(())
}

async fn key(action: KeyAction) -> Result<(), CliError> {
    match action {
        KeyAction::New { id, label, place } => {
            let desk = Desk::open(&place).await?;
            let key: KeyShown = desk.ask(Method::POST, &of(&id, "/keys")?, &NewKey { label }).await?;
            show(&place, &key, || print_new_key(&key));
        }
        KeyAction::List { id, place } => {
            let list: KeyList = Desk::open(&place).await?.ask(Method::GET, &of(&id, "/keys")?, &json!({})).await?;
            show(&place, &list, || list.data.iter().for_each(print_key));
        }
        KeyAction::Revoke { id, key, after, place } => {
            let key = KeyId::new(&key).map_err(CliError::Name)?;
            let path = of(&id, &format!("/keys/{key}?after_s={}", after.as_secs()))?;
            let revoked: KeyShown = Desk::open(&place).await?.ask(Method::DELETE, &path, &json!({})).await?;
            show(&place, &revoked, || print_key(&revoked));
        }
    }
    Ok(())
}

async fn webhook(action: WebhookAction) -> Result<(), CliError> {
    match action {
        WebhookAction::Add { id, url, events, reach, place } => {
            let new = NewEndpoint { url, events, reach: Some(reach) };
            let path = of(&id, "/webhooks")?;
            let added: EndpointShown = Desk::open(&place).await?.ask(Method::POST, &path, &new).await?;
            show(&place, &added, || {
                print_endpoint(&added);
                let secret = added.secret.as_deref().unwrap_or_default();
                print(&format!("its messages are signed with this secret, which is shown this once:\n{secret}"));
            });
        }
        WebhookAction::List { id, place } => {
            let path = of(&id, "/webhooks")?;
            let list: EndpointList = Desk::open(&place).await?.ask(Method::GET, &path, &json!({})).await?;
            show(&place, &list, || list.data.iter().for_each(print_endpoint));
        }
        WebhookAction::Remove { id, endpoint, place } => {
            let path = of(&id, &format!("/webhooks/{}", name_of(&endpoint)))?;
            let removed: EndpointRemoved = Desk::open(&place).await?.ask(Method::DELETE, &path, &json!({})).await?;
            show(&place, &removed, || print(&format!("endpoint {} is removed", removed.id)));
        }
        WebhookAction::Deliveries { id, place } => {
            let path = of(&id, "/deliveries")?;
            let list: DeliveryList = Desk::open(&place).await?.ask(Method::GET, &path, &json!({})).await?;
            show(&place, &list, || list.data.iter().for_each(print_delivery));
        }
    }
    Ok(())
}

/// Only what an endpoint's id is written with.
fn name_of(endpoint: &str) -> String {
    endpoint.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn print_endpoint(endpoint: &EndpointShown) {
    let EndpointShown { id, url, events, reach, created_at, .. } = endpoint;
    print(&format!("{id}  {url}  made {}  reach {reach}\n  {}", moment(*created_at), events.join(" ")));
}

fn print_delivery(delivery: &DeliveryShown) {
    let DeliveryShown { event_id, kind, subject, created_at, status, attempts, last, .. } = delivery;
    let last = last.as_deref().map_or_else(String::new, |last| format!(", the last: {last}"));
    let (at, kind) = (moment(*created_at), kind.name());
    print(&format!("{at}  {kind:<20} {subject}  {status} after {attempts} attempts{last}  ({event_id})"));
}

/// The path of something about a tenant; its name is checked here, so that it never becomes another path.
fn of(id: &str, rest: &str) -> Result<String, CliError> {
    let id = TenantId::new(id).map_err(CliError::Name)?;
    Ok(format!("/admin/v1/tenants/{id}{rest}"))
}

/// Only what a day is written with.
fn plain(day: &str) -> String {
    day.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

fn terms_of(limits: &LimitArgs, terms: &TermArgs, suspended: Option<bool>) -> Terms {
    let budget = limits.budget.as_deref().map(|budget| budget.split_once('/').unwrap_or((budget, "month")));
    let lifted = |limit: &Lifted| match limit {
        Lifted::Concurrency => "concurrency".to_owned(),
        Lifted::Budget => "budget".to_owned(),
        Lifted::Ramp => "ramp".to_owned(),
    };
    Terms {
        class: terms.class.clone(),
        requests_per_minute: limits.requests,
        tokens_per_minute: limits.tokens,
        concurrency: limits.concurrency,
        budget_usd: budget.map(|(amount, _)| amount.to_owned()),
        budget_period: budget.map(|(_, period)| period.to_owned()),
        ramp_floor_per_minute: limits.ramp_floor,
        ramp_growth_percent: limits.ramp_growth,
        lift: limits.lift.iter().map(lifted).collect(),
        caching: terms.caching.clone(),
        upstream: terms.upstream,
        smaller_model: terms.smaller_model,
        default_answer: terms.default_answer,
        store: terms.store,
        keep_days: terms.keep_days,
        keep_orphans: terms.keep_orphans,
        tokens_not_before: None,
        suspended,
    }
}

/// Shows an answer as JSON if that is wanted, else in words.
fn show(place: &Place, answer: &impl Serialize, words: impl FnOnce()) {
    if place.json {
        print_json(answer);
    } else {
        words();
    }
}

/// One `name: value` a line, as the JSON has them.
fn print_terms(tenant: &TenantShown) {
    print(&format!("tenant {}", tenant.id));
    let Ok(Value::Object(terms)) = serde_json::to_value(&tenant.terms) else { return };
    for (name, value) in terms {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        print(&format!("  {:<22} {value}", name.replace('_', " ")));
    }
}

fn print_new_key(key: &KeyShown) {
    print(&format!(
        "key {} of {}; it is shown this once:\n{}",
        key.id,
        key.tenant,
        key.key.as_deref().unwrap_or_default()
    ));
}

fn print_key(key: &KeyShown) {
    let at = |secs: Option<i64>| secs.map_or_else(|| "never".to_owned(), moment);
    let KeyShown { id, label, created_at, last_used_at, revoked_at, .. } = key;
    let end = revoked_at.map_or_else(String::new, |secs| format!("  revoked as of {}", moment(secs)));
    print(&format!("{id:<12} {label:<20} made {}  last used {}{end}", moment(*created_at), at(*last_used_at)));
}

fn print_usage(report: &UsageReport) {
    print("day          requests       input      cached      output        hits     refused     dollars");
    let line = |name: &str, used: &Used| {
        let Used { requests, input_tokens, cached_tokens, output_tokens, hits, refused, cost_usd, .. } = used;
        print(&format!(
            "{name:<10} {requests:>10} {input_tokens:>11} {cached_tokens:>11} {output_tokens:>11} {hits:>11} \
             {refused:>11} {cost_usd:>11}"
        ));
    };
    for UsageOfDay { date, used } in &report.data {
        line(date, used);
    }
    line("all", &report.total);
}

/// A moment in UTC.
fn moment(secs: i64) -> String {
    let at = penstock_policy::time::Timestamp::from_millis(secs.saturating_mul(1000));
    let of_day = secs.rem_euclid(86_400);
    let day = penstock_policy::calendar::Day::of(at).name();
    format!("{day} {:02}:{:02}", of_day / 3600, of_day % 3600 / 60)
}

/// Prints JSON for another program.
pub(crate) fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints a line to standard output, which may be closed.
pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
