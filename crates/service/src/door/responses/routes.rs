//! The handlers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, StatusCode, header};
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;
use penstock_wire::responses::{Deleted, InputItems, Item, ResponseRequest, ResponseStatus};

use super::Noted;
use crate::Service;
use crate::admission::admit::{Admission, How};
use crate::admission::wanted::Wanted;
use crate::degradation::fallback::{Made, Obtained, Source};
use crate::door::answering::{Answering, json};
use crate::door::asked::Asked;
use crate::door::http::read;
use crate::door::relay::Relay;
use crate::door::route::Route;
use crate::door::telling::{ResponseTelling, Telling};
use crate::door::told::told;
use crate::error::ApiError;
use crate::ports::Tenant;

type App = State<Arc<Service>>;
type Parameters = Result<Query<BTreeMap<String, String>>, QueryRejection>;

/// `POST /v1/responses`.
pub(crate) async fn create(State(service): App, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let now = service.ports().clock.now();
    let tenant = service.authenticate(&headers, now).await?;
    let mut request = ResponseRequest::parse(&read(&headers, body).await?)?;
    keep_as_the_tenant_wants(&tenant, &mut request)?;
    let history = match &request.echo.previous_response_id {
        Some(id) => service.conversation(&tenant, id).await?,
        None => Vec::new(),
    };
    let ask = request.asking(&history)?;
    let (asked, wanted) = (Asked::read(&headers)?, Wanted::Response(&ask));
    if asked.dry_run {
        let quoted = service.answer_dry(&tenant, wanted, now).await;
        return quoted.map_err(|error| error.in_terms_of(Route::Responses));
    }
    let obtained = service.obtain_response(&tenant, wanted, request.echo.background, &asked, now).await;
    let Taken { admission, mut answer, made } = obtained.map_err(|error| error.in_terms_of(Route::Responses))?;
    let mut told = told(&admission, &tenant, now);
    if let Some(made) = &made {
        made.tell(&mut told);
    }
    let (shown, heading) = (admission.shown, admission.heading(&ask.model));
    let mut echo = request.echo;
    // What was answered elsewhere has no job that could be looked at later.
    echo.store &= admission.how != How::Elsewhere;
    let noted = Noted::new(&admission, echo.clone(), history, request.input);
    if echo.store {
        // Dropped on the way, the answer leaves its job to the client's retry for a while, and then to nobody.
        service.note_down(&tenant.id, shown, &noted).await?;
    }
    let background = echo.background;
    if background {
        answer.let_run();
        service.watch_response(&tenant.id, shown, admission.job).await?;
    }
    let telling = ResponseTelling::new(heading, echo, None);
    let answering = Answering {
        service: Arc::clone(&service),
        route: Route::Responses,
        telling: Box::new(telling),
        created: admission.created,
        promise: admission.promise,
    };
    let mut response = match (background, ask.stream) {
        (true, false) => json(&service.response(&tenant, shown, &noted).await?),
        (true, true) => answering.frames_of(answer, None),
        (false, true) => answering.streamed(answer).await?,
        (false, false) => answering.whole(answer).await?,
    };
    response.headers_mut().extend(told);
    Ok(response)
}

/// What answers a response.
struct Taken {
    admission: Admission,
    answer: Source,
    /// How it is made, unless it waits in the background.
    made: Option<Made>,
}

impl Service {
    /// Finds what answers a response. One in the background waits for its own pool, however that stands: it has to be
    /// there later, and it has the time.
    async fn obtain_response(
        self: &Arc<Self>,
        tenant: &Tenant,
        wanted: Wanted<'_>,
        background: bool,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Taken, ApiError> {
        if !background {
            let Obtained { admission, source, made } = self.answer(tenant, wanted, asked, now).await?;
            return Ok(Taken { admission, answer: source, made: Some(made) });
        }
        let pools = self.pools(now).await?;
        let admission = self.obtain_in(tenant, wanted, wanted.pool(&pools)?, asked, now).await?;
        let answer = Source::job(Relay::of(Arc::clone(self), &admission));
        Ok(Taken { admission, answer, made: None })
    }
}

/// A tenant may have decided that nothing is kept.
fn keep_as_the_tenant_wants(tenant: &Tenant, request: &mut ResponseRequest) -> Result<(), ApiError> {
    if tenant.retention.store {
        return Ok(());
    }
    if request.echo.background {
        let message = "nothing of this tenant is kept, so nothing can be collected later; leave 'background' out";
        return Err(ApiError::invalid("background", "unsupported_parameter", message));
    }
    request.echo.store = false;
    Ok(())
}

/// `GET /v1/responses/{id}`, whole or as a stream that may begin after an event.
pub(crate) async fn show(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let parameters = given(parameters)?;
    let stream = match parameters.get("stream").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::invalid("stream", "invalid_value", "'stream' must be true or false")),
    };
    let seen = match parameters.get("starting_after").map(|number| number.parse::<u64>()) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            let message = "'starting_after' must be the number of an event: a whole number from 0 on";
            return Err(ApiError::invalid("starting_after", "invalid_value", message));
        }
    };
    let (shown, noted) = service.response_noted(&tenant, &id).await?;
    if !stream {
        return Ok(json(&service.response(&tenant, shown, &noted).await?));
    }
    let mut telling = ResponseTelling::new(noted.heading(shown)?, noted.echo.clone(), seen);
    if service.is_cancelled(&tenant.id, shown).await? {
        let frames = telling.opening() + &telling.failed(&ApiError::cancelled());
        const EVENTS: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        return Ok((StatusCode::OK, EVENTS, frames).into_response());
    }
    let heading = noted.heading(shown)?;
    let source = Source::job(Relay::onlooking(Arc::clone(&service), noted.job()?));
    let answering = Answering {
        service,
        route: Route::Responses,
        telling: Box::new(telling),
        created: heading.created,
        promise: None,
    };
    Ok(answering.frames_of(source, None))
}

/// `POST /v1/responses/{id}/cancel`.
pub(crate) async fn cancel(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let (shown, noted) = service.response_noted(&tenant, &id).await?;
    if !noted.echo.background {
        let message = "only a response in the background can be cancelled; this one is cancelled by hanging up";
        return Err(ApiError::invalid("response_id", "invalid_value", message));
    }
    let response = service.response(&tenant, shown, &noted).await?;
    if !matches!(response.status, ResponseStatus::Queued | ResponseStatus::InProgress) {
        return Ok(json(&response));
    }
    service.cancel_response(&tenant, shown, &noted).await?;
    service.announce_cancelled(&tenant.id, shown).await?;
    Ok(json(&service.response(&tenant, shown, &noted).await?))
}

/// `DELETE /v1/responses/{id}`. One that still runs in the background is cancelled first.
pub(crate) async fn remove(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let (shown, noted) = service.response_noted(&tenant, &id).await?;
    let unfinished = |status| matches!(status, ResponseStatus::Queued | ResponseStatus::InProgress);
    if noted.echo.background
        && service.response(&tenant, shown, &noted).await.is_ok_and(|response| unfinished(response.status))
    {
        service.cancel_response(&tenant, shown, &noted).await?;
    }
    service.forget(&tenant.id, shown).await?;
    Ok(json(&Deleted { id, object: "response".to_owned(), deleted: true }))
}

/// The most items of a page, and how many it has if nobody says.
const MOST_ITEMS: usize = 100;
const USUAL_ITEMS: usize = 20;

/// `GET /v1/responses/{id}/input_items`.
pub(crate) async fn input_items(
    State(service): App,
    headers: HeaderMap,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let tenant = service.authenticate(&headers, service.ports().clock.now()).await?;
    let parameters = given(parameters)?;
    let limit = match parameters.get("limit").map(|limit| limit.parse::<usize>()) {
        None => USUAL_ITEMS,
        Some(Ok(limit @ 1..=MOST_ITEMS)) => limit,
        Some(_) => {
            let message = format!("'limit' must be between 1 and {MOST_ITEMS}");
            return Err(ApiError::invalid("limit", "invalid_value", message));
        }
    };
    let newest_first = match parameters.get("order").map(String::as_str) {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => return Err(ApiError::invalid("order", "invalid_value", "'order' must be asc or desc")),
    };
    let (_, noted) = service.response_noted(&tenant, &id).await?;
    let mut items: Vec<Item> = noted.history.into_iter().chain(noted.input).collect();
    if newest_first {
        items.reverse();
    }
    page(items, parameters.get("after").map(String::as_str), limit).map(|page| json(&page))
}

fn page(items: Vec<Item>, after: Option<&str>, limit: usize) -> Result<InputItems, ApiError> {
    let skipped = match after {
        None => 0,
        Some(after) => match items.iter().position(|item| item.id() == after) {
            Some(place) => place + 1,
            None => return Err(ApiError::invalid("after", "invalid_value", "'after' must be the id of an item")),
        },
    };
    let has_more = items.len() > skipped.saturating_add(limit);
    let data: Vec<Item> = items.into_iter().skip(skipped).take(limit).collect();
    let id = |item: Option<&Item>| item.map(|item| item.id().to_owned());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(InputItems { object: "list".to_owned(), data, first_id, last_id, has_more })
}

fn given(parameters: Parameters) -> Result<BTreeMap<String, String>, ApiError> {
    match parameters {
        Ok(Query(parameters)) => Ok(parameters),
        Err(_) => Err(ApiError::invalid("query", "invalid_value", "the part of the URL after '?' cannot be read")),
    }
}

impl Service {
    /// A job that came by `/v1/responses` as the response it is, if it was kept.
    pub(crate) async fn response_of_job(
        self: &Arc<Self>,
        tenant: &Tenant,
        id: JobId,
    ) -> Result<Option<penstock_wire::responses::Response>, ApiError> {
        match self.noted(&tenant.id, id).await? {
            Some(noted) => Ok(Some(self.response(tenant, id, &noted).await?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<Item> {
        let item = |place: usize| {
            let body = format!("{{\"model\": \"m\", \"input\": \"{place}\"}}");
            ResponseRequest::parse(body.as_bytes()).unwrap().input.remove(0).named("x", place)
        };
        (0..count).map(item).collect()
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = page(items(5), after.as_deref(), 2).unwrap();
            seen.extend(page.data.iter().map(|item| item.id().to_owned()));
            assert_eq!(page.last_id.as_ref(), seen.last());
            if !page.has_more {
                break;
            }
            after = page.last_id;
        }
        assert_eq!(seen, items(5).iter().map(|item| item.id().to_owned()).collect::<Vec<_>>());
        assert!(page(items(2), Some("nobody"), 2).is_err());
        assert_eq!(page(Vec::new(), None, 2).unwrap().first_id, None);
    }
}
