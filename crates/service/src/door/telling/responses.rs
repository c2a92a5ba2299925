//! How `/v1/responses` tells an answer: as items, and in a stream as numbered events.
//!
//! The events are a function of the request's echo, of the chunks in their order, and of the end, and of nothing else: a
//! client that asks for the events after the last it has seen gets exactly the rest, whoever tells them and whenever.

use penstock_policy::admission::tier_of_class;
use penstock_wire::chat::TokenLogprob;
use penstock_wire::responses::{
    Content, IncompleteDetails, Item, Response, ResponseEcho, ResponseError, ResponseEvent, ResponseStatus,
};
use penstock_wire::sse;

use super::{Heading, Telling};
use crate::door::rendering::{CallNames, logprobs, usage};
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, FinishReason, Part};

/// Tells a response.
#[derive(Clone)]
pub(crate) struct ResponseTelling {
    heading: Heading,
    echo: ResponseEcho,
    calls: CallNames,
    /// The items that are whole.
    items: Vec<Item>,
    open: Option<Open>,
    /// What is known of tokens whose words have not come yet.
    unsaid: Vec<TokenLogprob>,
    begun: bool,
    next: u64,
    /// The last event the client has seen already.
    seen: Option<u64>,
}

/// An item that grows.
#[derive(Clone)]
struct Open {
    channel: Channel,
    id: String,
    text: String,
    logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Message,
    Reasoning,
}

/// The name that a response's items and itself are known by.
fn response_id(heading: &Heading) -> String {
    format!("resp_{}", heading.shown)
}

impl ResponseTelling {
    /// Tells from the first event on, or from the one after `seen`.
    pub(crate) fn new(heading: Heading, echo: ResponseEcho, seen: Option<u64>) -> Self {
        Self {
            calls: CallNames::new(heading.shown),
            heading,
            echo,
            items: Vec::new(),
            open: None,
            unsaid: Vec::new(),
            begun: false,
            next: 0,
            seen,
        }
    }

    /// The response while it has not ended.
    pub(crate) fn unfinished(&self, status: ResponseStatus) -> Response {
        Response {
            id: response_id(&self.heading),
            object: "response".to_owned(),
            created_at: self.heading.created.as_secs(),
            status,
            error: None,
            incomplete_details: None,
            output: Vec::new(),
            usage: None,
            service_tier: tier_of_class(self.heading.class).to_owned(),
            echo: self.echo.clone(),
        }
    }

    /// The response that has its answer.
    pub(crate) fn finished(&self, said: &[Chunk], answer: &Answer) -> Response {
        let mut telling = Self { seen: Some(u64::MAX), ..self.clone() };
        said.iter().for_each(|chunk| drop(telling.said(chunk)));
        telling.ended(answer).1
    }

    /// The response that has none.
    pub(crate) fn without_answer(&self, error: &ApiError) -> Response {
        let cancelled = error.is_cancelled();
        let status = if cancelled { ResponseStatus::Cancelled } else { ResponseStatus::Failed };
        let said = error.body.error.clone();
        let told = ResponseError { code: said.code.unwrap_or(said.kind), message: said.message };
        let unfinished = self.open.as_ref().map(|open| open.item("incomplete"));
        Response {
            error: (!cancelled).then_some(told),
            output: self.items.iter().cloned().chain(unfinished).collect(),
            ..self.unfinished(status)
        }
    }

    /// The last frames and the response, in this order.
    fn ended(&mut self, answer: &Answer) -> (String, Response) {
        let cut_short = answer.reasons.first() == Some(&FinishReason::Length);
        let mut frames = self.begin();
        frames.push_str(&self.close(if cut_short { "incomplete" } else { "completed" }));
        let status = if cut_short { ResponseStatus::Incomplete } else { ResponseStatus::Completed };
        let response = Response {
            incomplete_details: cut_short.then(|| IncompleteDetails { reason: "max_output_tokens".to_owned() }),
            output: self.items.clone(),
            usage: Some(usage(answer).into()),
            ..self.unfinished(status)
        };
        let last = Box::new(response.clone());
        frames.push_str(&self.event(|sequence_number| match cut_short {
            true => ResponseEvent::Incomplete { sequence_number, response: last },
            false => ResponseEvent::Completed { sequence_number, response: last },
        }));
        (frames, response)
    }

    /// Numbers an event; its frame is empty if the client has seen it.
    fn event(&mut self, make: impl FnOnce(u64) -> ResponseEvent) -> String {
        let number = self.next;
        self.next = number.saturating_add(1);
        if self.seen.is_some_and(|seen| number <= seen) { String::new() } else { sse::event(&make(number)) }
    }

    /// A response in the background is taken up with its first words, or its end.
    fn begin(&mut self) -> String {
        if self.begun {
            return String::new();
        }
        self.begun = true;
        let response = Box::new(self.unfinished(ResponseStatus::InProgress));
        self.event(|sequence_number| ResponseEvent::InProgress { sequence_number, response })
    }

    fn output_index(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX)
    }

    /// The frames that open an item of a channel, and those that close another before it.
    fn turn_to(&mut self, channel: Channel) -> String {
        if self.open.as_ref().is_some_and(|open| open.channel == channel) {
            return String::new();
        }
        let mut frames = self.close("completed");
        let output_index = self.output_index();
        let kind = match channel {
            Channel::Message => "msg",
            Channel::Reasoning => "rs",
        };
        let id = format!("{kind}_{}_{output_index}", self.heading.shown);
        let open = Open { channel, id: id.clone(), text: String::new(), logprobs: Vec::new() };
        let (item, part) = (open.bare(), open.part());
        self.open = Some(open);
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ItemAdded {
            sequence_number,
            output_index,
            item,
        }));
        frames.push_str(&self.event(|sequence_number| ResponseEvent::PartAdded {
            sequence_number,
            item_id: id,
            output_index,
            content_index: 0,
            part,
        }));
        frames
    }

    fn speak(&mut self, channel: Channel, more: &str) -> String {
        let mut frames = self.turn_to(channel);
        let output_index = self.output_index();
        let logprobs = if channel == Channel::Message { std::mem::take(&mut self.unsaid) } else { Vec::new() };
        let Some(open) = &mut self.open else { return frames };
        open.text.push_str(more);
        open.logprobs.extend(logprobs.iter().cloned());
        let (item_id, delta) = (open.id.clone(), more.to_owned());
        frames.push_str(&self.event(|sequence_number| match channel {
            Channel::Message => {
                ResponseEvent::TextDelta { sequence_number, item_id, output_index, content_index: 0, delta, logprobs }
            }
            Channel::Reasoning => {
                ResponseEvent::ReasoningDelta { sequence_number, item_id, output_index, content_index: 0, delta }
            }
        }));
        frames
    }

    fn call(&mut self, name: &str, arguments: &str) -> String {
        let mut frames = self.close("completed");
        let output_index = self.output_index();
        let item_id = format!("fc_{}_{output_index}", self.heading.shown);
        let call_id = self.calls.next(0).1;
        let item = |status: &str, arguments: &str| Item::FunctionCall {
            id: item_id.clone(),
            status: status.to_owned(),
            call_id: call_id.clone(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        let (added, done) = (item("in_progress", ""), item("completed", arguments));
        let whole = done.clone();
        let (id, delta) = (item_id.clone(), arguments.to_owned());
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ItemAdded {
            sequence_number,
            output_index,
            item: added,
        }));
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ArgumentsDelta {
            sequence_number,
            item_id: id,
            output_index,
            delta,
        }));
        let (id, name, arguments) = (item_id.clone(), name.to_owned(), arguments.to_owned());
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ArgumentsDone {
            sequence_number,
            item_id: id,
            output_index,
            name,
            arguments,
        }));
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ItemDone {
            sequence_number,
            output_index,
            item: whole,
        }));
        self.items.push(done);
        frames
    }

    /// The frames that close the open item, if there is one.
    fn close(&mut self, status: &str) -> String {
        let output_index = self.output_index();
        let Some(mut open) = self.open.take() else { return String::new() };
        if open.channel == Channel::Message {
            open.logprobs.append(&mut self.unsaid);
        }
        let (item_id, text, logprobs) = (open.id.clone(), open.text.clone(), open.logprobs.clone());
        let mut frames = self.event(|sequence_number| match open.channel {
            Channel::Message => {
                ResponseEvent::TextDone { sequence_number, item_id, output_index, content_index: 0, text, logprobs }
            }
            Channel::Reasoning => {
                ResponseEvent::ReasoningDone { sequence_number, item_id, output_index, content_index: 0, text }
            }
        });
        let (item_id, part, item) = (open.id.clone(), open.part(), open.item(status));
        frames.push_str(&self.event(|sequence_number| ResponseEvent::PartDone {
            sequence_number,
            item_id,
            output_index,
            content_index: 0,
            part,
        }));
        self.items.push(item.clone());
        frames.push_str(&self.event(|sequence_number| ResponseEvent::ItemDone { sequence_number, output_index, item }));
        frames
    }
}

impl Open {
    fn part(&self) -> Content {
        let text = self.text.clone();
        match self.channel {
            Channel::Message => Content::OutputText { text, annotations: Vec::new(), logprobs: self.logprobs.clone() },
            Channel::Reasoning => Content::ReasoningText { text },
        }
    }

    fn bare(&self) -> Item {
        self.holding("in_progress", Vec::new())
    }

    fn item(&self, status: &str) -> Item {
        self.holding(status, vec![self.part()])
    }

    fn holding(&self, status: &str, content: Vec<Content>) -> Item {
        let (id, status) = (self.id.clone(), status.to_owned());
        match self.channel {
            Channel::Message => Item::Message { id, status, role: "assistant".to_owned(), content },
            Channel::Reasoning => Item::Reasoning { id, status, summary: Vec::new(), content },
        }
    }
}

impl Telling for ResponseTelling {
    fn whole(&self, said: &[Chunk], answer: &Answer) -> String {
        serde_json::to_string(&self.finished(said, answer)).unwrap_or_default()
    }

    fn opening(&mut self) -> String {
        let waits = self.echo.background;
        let status = if waits { ResponseStatus::Queued } else { ResponseStatus::InProgress };
        let response = Box::new(self.unfinished(status));
        let queued = response.clone();
        let mut frames = self.event(|sequence_number| ResponseEvent::Created { sequence_number, response });
        let next = if waits {
            self.event(|sequence_number| ResponseEvent::Queued { sequence_number, response: queued })
        } else {
            self.begin()
        };
        frames.push_str(&next);
        frames
    }

    fn said(&mut self, chunk: &Chunk) -> String {
        let mut frames = self.begin();
        self.unsaid.extend(logprobs(&chunk.words.logprobs).map(|told| told.content).unwrap_or_default());
        for part in &chunk.words.parts {
            let more = match part {
                Part::Content(text) => self.speak(Channel::Message, text),
                Part::Reasoning(text) => self.speak(Channel::Reasoning, text),
                Part::Call { name, arguments } => self.call(name, arguments),
                // The answer to another question than a conversation.
                Part::Vectors(_) => String::new(),
            };
            frames.push_str(&more);
        }
        frames
    }

    fn answered(&mut self, answer: &Answer) -> String {
        self.ended(answer).0
    }

    fn failed(&mut self, error: &ApiError) -> String {
        let response = Box::new(self.without_answer(error));
        // A client that saw more than there is now, because the response was cancelled meanwhile, still hears the end.
        self.next = self.next.max(self.seen.map_or(0, |seen| seen.saturating_add(1)));
        self.event(|sequence_number| ResponseEvent::Failed { sequence_number, response })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use penstock_policy::classes::Class;
    use penstock_policy::id::{Epoch, JobId};
    use penstock_policy::job::Position;
    use penstock_policy::time::Timestamp;
    use penstock_wire::responses::{Reasoning, ResponseRequest, TextSettings};
    use proptest::prelude::*;

    use super::*;
    use crate::stored::chunk::Words;

    fn telling(background: bool, seen: Option<u64>) -> ResponseTelling {
        let created = Timestamp::from_millis(1);
        let heading = Heading { shown: JobId::new(created, 2), created, model: "m".to_owned(), class: Class::P1 };
        let body = format!("{{\"model\": \"m\", \"input\": \"x\", \"background\": {background}}}");
        ResponseTelling::new(heading, ResponseRequest::parse(body.as_bytes()).unwrap().echo, seen)
    }

    fn chunk(seq: u32, parts: Vec<Part>) -> Chunk {
        let words = Words { choice: 0, parts, logprobs: Vec::new() };
        Chunk { position: Position { epoch: Epoch(1), seq }, parent: None, ids: Vec::new(), words }
    }

    fn answer(reason: FinishReason) -> Answer {
        Answer { reasons: vec![reason], prompt_tokens: 1, completion_tokens: 2, cached_tokens: 0, reasoning_tokens: 0 }
    }

    fn frames(mut telling: ResponseTelling, said: &[Chunk], answer: &Answer) -> Vec<ResponseEvent> {
        let mut text = telling.opening();
        said.iter().for_each(|chunk| text.push_str(&telling.said(chunk)));
        text.push_str(&telling.answered(answer));
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    fn number(event: &ResponseEvent) -> u64 {
        serde_json::to_value(event).unwrap()["sequence_number"].as_u64().unwrap()
    }

    fn kinds(events: &[ResponseEvent]) -> Vec<String> {
        let kind = |event| serde_json::to_value(event).unwrap()["type"].as_str().unwrap().replace("response.", "");
        events.iter().map(kind).collect()
    }

    fn some_parts() -> impl Strategy<Value = Part> {
        prop_oneof![
            "[a-z]{1,3}".prop_map(Part::Content),
            "[a-z]{1,3}".prop_map(Part::Reasoning),
            "[f-h]".prop_map(|name| Part::Call { name, arguments: "{}".to_owned() }),
        ]
    }

    #[test]
    fn words_come_in_the_events_that_openai_sends_them_in() {
        let said = [chunk(0, vec![Part::Content("ab".to_owned())]), chunk(1, vec![Part::Content("c".to_owned())])];
        let events = frames(telling(false, None), &said, &answer(FinishReason::Stop));
        let expected = "created in_progress output_item.added content_part.added output_text.delta output_text.delta \
                        output_text.done content_part.done output_item.done completed";
        assert_eq!(kinds(&events).join(" "), expected);
        let ResponseEvent::Completed { response, .. } = events.last().unwrap() else { panic!("{events:?}") };
        assert_eq!(**response, telling(false, None).finished(&said, &answer(FinishReason::Stop)));
        let Item::Message { content, status, .. } = &response.output[0] else { panic!("{response:?}") };
        assert_eq!(status, "completed");
        assert!(matches!(&content[0], Content::OutputText { text, .. } if text == "abc"), "{content:?}");
    }

    #[test]
    fn what_waits_in_the_background_is_queued_until_it_speaks() {
        let said = [chunk(0, vec![Part::Call { name: "f".to_owned(), arguments: "{}".to_owned() }])];
        let events = frames(telling(true, None), &said, &answer(FinishReason::ToolCalls));
        let expected = "created queued in_progress output_item.added function_call_arguments.delta \
                        function_call_arguments.done output_item.done completed";
        assert_eq!(kinds(&events).join(" "), expected);
        let cut = frames(telling(true, None), &said, &answer(FinishReason::Length));
        let ResponseEvent::Incomplete { response, .. } = cut.last().unwrap() else { panic!("{cut:?}") };
        assert_eq!(response.incomplete_details.as_ref().unwrap().reason, "max_output_tokens");
    }

    #[test]
    fn a_failure_and_a_cancellation_are_told_apart_by_the_status_and_heard_whatever_was_seen() {
        for (error, status, has_error) in [
            (ApiError::internal(), ResponseStatus::Failed, true),
            (ApiError::cancelled(), ResponseStatus::Cancelled, false),
        ] {
            let mut telling = telling(true, Some(40));
            assert_eq!(telling.opening(), "");
            let frame = telling.failed(&error);
            let event: ResponseEvent =
                serde_json::from_str(frame.lines().nth(1).unwrap().strip_prefix("data: ").unwrap()).unwrap();
            let ResponseEvent::Failed { response, sequence_number } = event else { panic!("{event:?}") };
            assert_eq!((response.status, response.error.is_some(), sequence_number), (status, has_error, 41));
        }
    }

    #[test]
    fn an_echo_keeps_every_field_the_client_requires() {
        let ResponseEcho { metadata, reasoning, text, .. } = telling(false, None).echo;
        assert_eq!((metadata, reasoning), (BTreeMap::new(), Reasoning::default()));
        assert_eq!(text, TextSettings { format: serde_json::json!({"type": "text"}) });
    }

    proptest! {
        #[test]
        fn whoever_resumes_after_any_event_hears_exactly_the_rest(
            parts in proptest::collection::vec(proptest::collection::vec(some_parts(), 1..4), 0..6),
            background: bool,
            cut in 0usize..60,
        ) {
            let said: Vec<Chunk> = (0..).zip(parts).map(|(seq, parts)| chunk(seq, parts)).collect();
            let answer = answer(FinishReason::Stop);
            let whole = frames(telling(background, None), &said, &answer);
            prop_assert_eq!(whole.iter().map(number).collect::<Vec<_>>(), (0..whole.len() as u64).collect::<Vec<_>>());
            let cut = cut.min(whole.len() - 1);
            let rest = frames(telling(background, Some(cut as u64)), &said, &answer);
            prop_assert_eq!(&rest[..], &whole[cut + 1..]);
        }
    }
}
