//! What every handler does at its cold start: read the configuration, connect, serve.
//!
//! The router is the one the embedded server uses. Lambda's events become its requests, its answers are streamed back
//! as they grow: a whole answer is a stream of one piece.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use lambda_http::{
    Error, LambdaEvent, Request, RequestExt, lambda_runtime, run_with_streaming_response_concurrent, service_fn,
};
use penstock_aws::{Aws, Names, Timeouts};
use penstock_service::config::{Config, Traces};
use penstock_service::degradation::http_upstream::HttpUpstream;
use penstock_service::ports::{Clock, Courier, PortResult};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::telemetry::emf::Emf;
use penstock_service::telemetry::otlp::Otlp;
use penstock_service::tokens::TrustedIssuers;
use penstock_service::webhooks::HttpCourier;
use penstock_service::{Lane, Prepared, Service, Ticked, guarded};
use tower::ServiceExt;

/// Serves some of the routes as a Lambda function, until Lambda ends the process.
///
/// # Errors
/// If the environment is incomplete or Lambda's runtime interface does not answer: the environment cannot serve, and
/// Lambda starts another.
pub async fn serve(routes: impl FnOnce(Arc<Service>) -> Router) -> Result<(), Error> {
    let (service, traces) = connect(None).await?;
    // Before the answer goes out: after it, Lambda may stop the process for an hour. Most requests are not traced.
    let traced = move |answer| {
        let traces = traces.clone();
        async move {
            flush(traces.as_deref()).await;
            answer
        }
    };
    run_with_streaming_response_concurrent(routes(service).map_request(without_stage).then(traced)).await
}

/// Ticks whenever the schedule calls, until Lambda ends the process: once, and again every few seconds of the schedule's
/// minute as long as there is anything to do.
///
/// # Errors
/// As [`serve`].
pub async fn tick() -> Result<(), Error> {
    // Alone in delivering webhooks: a handler's cold start needs no client for them.
    let (service, _) = connect(Some(Arc::new(HttpCourier::new()?))).await?;
    let tick = |_: LambdaEvent<serde_json::Value>| {
        let service = Arc::clone(&service);
        async move { minute(&service).await.map_err(Error::from) }
    };
    lambda_runtime::run(service_fn(tick)).await
}

/// Reconciles whenever the schedule calls, until Lambda ends the process: run after run as long as there is more to do and
/// the schedule's minute lasts.
///
/// # Errors
/// As [`serve`].
pub async fn reconcile() -> Result<(), Error> {
    let (service, _) = connect(None).await?;
    let run = |_: LambdaEvent<serde_json::Value>| {
        let service = Arc::clone(&service);
        async move {
            let clock = &service.ports().clock;
            let until = clock.now().after(MINUTE);
            while service.reconcile(clock.now()).await?.more && clock.now() < until {}
            Ok::<(), Error>(())
        }
    };
    lambda_runtime::run(service_fn(run)).await
}

/// How often a minute in which there is something to do is ticked.
const BUSY_TICK: Duration = Duration::from_secs(10);

/// After so long the next call of the schedule goes on.
const MINUTE: Duration = Duration::from_secs(50);

async fn minute(service: &Arc<Service>) -> PortResult<()> {
    let clock = &service.ports().clock;
    let until = clock.now().after(MINUTE);
    loop {
        let now = clock.now();
        let ticked = service.control_tick(now).await?;
        if ticked == Ticked::Elsewhere {
            return Ok(());
        }
        service.evaluate_breakers(now).await?;
        let next = now.after(BUSY_TICK);
        let errands = service.do_errands(Lane::Short, next.min(until)).await?;
        let comes_soon = errands.next.is_some_and(|due| due <= until);
        if next >= until || (ticked == Ticked::Idle && !comes_soon) {
            return Ok(());
        }
        clock.sleep_until(next).await;
    }
}

/// Carries batches on whenever the schedule calls, until Lambda ends the process.
///
/// # Errors
/// As [`serve`].
pub async fn split() -> Result<(), Error> {
    let (service, _) = connect(None).await?;
    let carry = |_: LambdaEvent<serde_json::Value>| {
        let service = Arc::clone(&service);
        async move { batches(&service).await.map_err(Error::from) }
    };
    lambda_runtime::run(service_fn(carry)).await
}

/// Carries batches on for the schedule's minute, as long as there are any.
async fn batches(service: &Arc<Service>) -> PortResult<()> {
    let clock = &service.ports().clock;
    let until = clock.now().after(MINUTE);
    loop {
        let errands = service.do_errands(Lane::Long, until).await?;
        match errands.next.filter(|due| *due < until) {
            // What failed a moment ago is tried again by the next call.
            Some(due) => clock.sleep_until(due).await,
            None => return Ok(()),
        }
        if clock.now() >= until {
            return Ok(());
        }
    }
}

async fn flush(traces: Option<&Otlp>) {
    if let Some(traces) = traces {
        traces.flush().await;
    }
}

/// What Lambda calls this function.
fn function_name() -> String {
    std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "penstock".to_owned())
}

/// Looks after the prepared answers whenever it is called, until Lambda ends the process. What it came to is told to the
/// caller, if there is one, and what is wrong with the list is logged by line.
///
/// # Errors
/// As [`serve`].
pub async fn prepare() -> Result<(), Error> {
    let (service, _) = connect(None).await?;
    let round = |_: LambdaEvent<serde_json::Value>| {
        let service = Arc::clone(&service);
        async move { prepared(&service).await.map_err(Error::from) }
    };
    lambda_runtime::run(service_fn(round)).await
}

/// A list that is gone prepares nothing any more.
async fn prepared(service: &Arc<Service>) -> PortResult<serde_json::Value> {
    let list = service.prepared_list().await?.unwrap_or_default();
    let Prepared { questions, ready, asked, failed } = service.preload(&list).await?;
    for (line, why) in &failed {
        tracing::warn!(line, why, "a prepared question is not answered");
    }
    tracing::info!(questions, ready, asked, failed = failed.len(), "prepared answers are looked after");
    let failed: Vec<_> = failed.iter().map(|(line, why)| serde_json::json!({"line": line, "why": why})).collect();
    Ok(serde_json::json!({"questions": questions, "ready": ready, "asked": asked, "failed": failed}))
}

/// What a cold start does: reads the configuration and connects.
async fn connect(courier: Option<Arc<dyn Courier>>) -> Result<(Arc<Service>, Option<Arc<Otlp>>), Error> {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        // Lambda adds the time to every line.
        .without_time()
        .init();
    let config = Config::from_lookup(|name| std::env::var(name).ok())?;
    let secret =
        config.marker_secret.as_deref().ok_or("the environment is not complete: set PENSTOCK_MARKER_SECRET")?;
    // An emulator shares this machine's cores: what is lost in a region's 250 ms is only slow there.
    let timeouts = if config.endpoint.is_some() { Timeouts::patient() } else { Timeouts::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Lambda makes log lines of what is printed, and CloudWatch makes metrics of these.
    let meter = Emf::new(&config.stage, Arc::clone(&clock), Box::new(std::io::stdout()));
    let aws = Aws::connect(Names::from(&config), timeouts, config.endpoint.as_deref(), clock).await;
    let ports = Arc::new(aws).ports(Arc::new(TaskSpawner), Arc::new(OsEntropy));
    let outsides = config.upstreams.into_iter().map(HttpUpstream::outside).collect::<Result<Vec<_>, _>>()?;
    let tokens = TrustedIssuers::over_http(config.issuers)?;
    let service = Service::new(guarded(ports), config.timing, secret.as_bytes()).with_upstreams(outsides);
    let mut service = service.with_tokens(tokens).with_meter(Arc::new(meter));
    if let Some(courier) = courier {
        service = service.with_courier(courier);
    }
    let otlp = |traces: Traces| Otlp::new(&traces.endpoint, &function_name(), &config.stage, traces.share);
    let traces = config.traces.map(otlp).transpose()?.map(Arc::new);
    if let Some(otlp) = &traces {
        service = service.with_tracer(Arc::clone(otlp) as _);
    }
    Ok((Arc::new(service), traces))
}

/// Takes API Gateway's stage off the path: the router knows `/v1/...`, whatever the stage is called.
fn without_stage(mut request: Request) -> Request {
    let path = request.raw_http_path().to_owned();
    let query = request.uri().query().map(str::to_owned);
    let whole = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(uri) = whole.parse() {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_taken_off_the_path_and_the_query_stays() {
        let event = serde_json::json!({
            "resource": "/v1/jobs/{id}", "path": "/v1/jobs/7", "httpMethod": "GET",
            "headers": {}, "multiValueHeaders": {},
            "queryStringParameters": {"a": "b"}, "multiValueQueryStringParameters": {"a": ["b"]},
            "requestContext": {"stage": "prod", "path": "/prod/v1/jobs/7", "httpMethod": "GET", "identity": {}},
            "body": null, "isBase64Encoded": false
        });
        let request = lambda_http::request::from_str(&event.to_string()).unwrap();
        assert_eq!(request.uri().path(), "/prod/v1/jobs/7");
        let request = without_stage(request);
        assert_eq!((request.uri().path(), request.uri().query()), ("/v1/jobs/7", Some("a=b")));
    }
}
