//! Tells what an answer says by channel: thoughts, tool calls, and words for the client.
//!
//! Text comes in pieces that respect no border, so whatever may still become a marker is held back, and so is a call
//! until it is complete: clients never see half of either. A call counts if it names one of the request's tools and its
//! arguments are an object; anything else stays text, markers and all. The outcome is a function of the text alone,
//! however it arrives, so a worker that replays it stands where the first one stood.
//!
//! White space around thoughts and calls belongs to the markers and is left out.
//!
//! Edge cases: thoughts that never end are thoughts to the last word; an answer may end within a marker, which then is
//! text; thoughts can only open an answer, a `<think>` later on is text.

use std::sync::Arc;

use penstock_service::ports::Part;

use super::dialect::{ARGS, Beginning, LIST, Manner, PYTHON, TAG, TAG_END, THINK, THOUGHT};
use super::tool_call::{ObjectEnd, call, named};

/// Splits one answer by channel.
#[derive(Clone, Debug)]
pub struct Channels {
    state: State,
    held: String,
    /// How the model calls the request's tools; `None` if it has none to call.
    manner: Option<Manner>,
    tools: Arc<[String]>,
    /// Whether nothing was said to the client yet except calls: a bare call can begin here.
    nothing_said: bool,
    calls: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// Thoughts may open here.
    Opening,
    /// Before the first word of the thoughts.
    Thought,
    /// In the midst of them.
    Thinking,
    /// Before the first word after them.
    AfterThought,
    Saying,
    /// `opened` has been read of a call, whose object begins behind it.
    Calling {
        opened: String,
        listed: Listed,
        end: ObjectEnd,
    },
    /// After a call.
    Called {
        listed: Listed,
    },
}

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// In a list of calls.
    Yes,
    /// Alone.
    No,
}

/// Whether a step of the machine leads to another.
enum Next {
    Again,
    Wait,
}

impl Channels {
    /// The channels of an answer that begins so, to a request with these tools.
    #[must_use]
    pub fn new(beginning: Beginning, manner: Option<Manner>, tools: Arc<[String]>) -> Self {
        let state = match beginning {
            Beginning::Answer => State::Saying,
            Beginning::Thought => State::Thought,
            Beginning::Either => State::Opening,
        };
        Self { state, held: String::new(), manner, tools, nothing_said: true, calls: 0 }
    }

    /// The channels of an answer that is all words for the client.
    #[must_use]
    pub fn plain() -> Self {
        Self::new(Beginning::Answer, None, [].into())
    }

    /// How many tools it has called.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether the model is saying something to itself.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        match self.state {
            State::Thought | State::Thinking => true,
            State::Opening | State::AfterThought | State::Saying | State::Calling { .. } | State::Called { .. } => {
                false
            }
        }
    }

    /// Takes the next piece of text and gives what may now be shown.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while !self.held.is_empty() {
            match self.step(&mut parts) {
                Next::Again => {}
                Next::Wait => break,
            }
        }
        parts
    }

    /// What is still held back when the answer ends.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut held = std::mem::take(&mut self.held);
        let part = match &mut self.state {
            State::Thought | State::Thinking => Part::Reasoning(held.trim_end().to_owned()),
            State::AfterThought => Part::Content(String::new()),
            State::Called { .. } if held.trim().is_empty() => Part::Content(String::new()),
            State::Calling { opened, .. } => {
                held.insert_str(0, opened);
                Part::Content(held)
            }
            State::Opening | State::Saying | State::Called { .. } => Part::Content(held),
        };
        let mut parts = Vec::new();
        Part::append(&mut parts, part);
        parts
    }

    fn step(&mut self, parts: &mut Vec<Part>) -> Next {
        match self.state {
            State::Opening => self.opening(),
            State::Thought => self.skip_space(State::Thinking),
            State::Thinking => self.thinking(parts),
            State::AfterThought => self.skip_space(State::Saying),
            State::Saying => self.saying(parts),
            State::Calling { .. } => self.calling(parts),
            State::Called { listed } => self.called(listed),
        }
    }

    fn opening(&mut self) -> Next {
        let begun = self.held.trim_start();
        if let Some(rest) = begun.strip_prefix(THINK) {
            self.held = rest.to_owned();
            self.state = State::Thought;
            return Next::Again;
        }
        if THINK.starts_with(begun) {
            return Next::Wait;
        }
        self.state = State::Saying;
        Next::Again
    }

    fn skip_space(&mut self, next: State) -> Next {
        self.held = self.held.trim_start().to_owned();
        if self.held.is_empty() {
            return Next::Wait;
        }
        self.state = next;
        Next::Again
    }

    fn thinking(&mut self, parts: &mut Vec<Part>) -> Next {
        if let Some((thought, rest)) = self.held.split_once(THOUGHT) {
            Part::append(parts, Part::Reasoning(thought.trim_end().to_owned()));
            self.held = rest.to_owned();
            self.state = State::AfterThought;
            return Next::Again;
        }
        let said = self.take_said(THOUGHT);
        Part::append(parts, Part::Reasoning(said));
        Next::Wait
    }

    fn saying(&mut self, parts: &mut Vec<Part>) -> Next {
        let opener = match self.manner {
            None => {
                Part::append(parts, Part::Content(std::mem::take(&mut self.held)));
                return Next::Wait;
            }
            Some(Manner::Bare) => return self.saying_bare(parts),
            Some(Manner::Tagged) => TAG,
            Some(Manner::Listed | Manner::Spoken) => LIST,
        };
        if let Some((said, rest)) = self.held.split_once(opener) {
            let (said, rest) = (said.to_owned(), rest.to_owned());
            let spoken = said.trim_end();
            Part::append(parts, Part::Content(spoken.to_owned()));
            self.nothing_said &= spoken.is_empty();
            let space = &said[spoken.len()..];
            self.call_opened(space.to_owned() + opener, Listed::No);
            self.held = rest;
            return Next::Again;
        }
        let said = self.take_said(opener);
        self.nothing_said &= said.is_empty();
        Part::append(parts, Part::Content(said));
        Next::Wait
    }

    /// A bare call is the first that is said, or follows another.
    fn saying_bare(&mut self, parts: &mut Vec<Part>) -> Next {
        let begun = self.held.trim_start();
        if !self.nothing_said || !(begun.is_empty() || begun.starts_with('{') || starts_alike(begun, PYTHON)) {
            self.nothing_said = false;
            Part::append(parts, Part::Content(std::mem::take(&mut self.held)));
            return Next::Wait;
        }
        let object = begun.strip_prefix(PYTHON).unwrap_or(begun);
        if !object.starts_with('{') && !begun.starts_with(PYTHON) {
            return Next::Wait;
        }
        let rest = object.to_owned();
        let opened = self.held[..self.held.len() - rest.len()].to_owned();
        self.call_opened(opened, Listed::No);
        self.held = rest;
        Next::Again
    }

    fn call_opened(&mut self, opened: String, listed: Listed) {
        self.state = State::Calling { opened, listed, end: ObjectEnd::default() };
    }

    fn calling(&mut self, parts: &mut Vec<Part>) -> Next {
        let State::Calling { opened, listed, end } = &mut self.state else { return Next::Wait };
        let space = self.held.len() - self.held.trim_start().len();
        if space > 0 {
            opened.extend(self.held.drain(..space));
            return Next::Again;
        }
        if matches!(self.manner, Some(Manner::Listed | Manner::Spoken)) && *listed == Listed::No {
            if self.held.starts_with('[') {
                opened.extend(self.held.drain(..1));
                *listed = Listed::Yes;
                return Next::Again;
            }
            if !self.held.starts_with('{') {
                return self.calling_by_name(parts);
            }
        }
        if !self.held.starts_with('{') {
            return self.no_call(parts);
        }
        let Some(length) = end.find(&self.held) else { return Next::Wait };
        let listed = *listed;
        match call(&self.held[..length], &self.tools) {
            Some(call) => self.called_one(call, length, listed, parts),
            None => self.no_call(parts),
        }
    }

    /// `f[ARGS]{...}`.
    fn calling_by_name(&mut self, parts: &mut Vec<Part>) -> Next {
        let State::Calling { end, .. } = &mut self.state else { return Next::Wait };
        let name_like = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let Some((name, rest)) = self.held.split_once(ARGS) else {
            let name = &self.held[..self.held.len() - overlap(&self.held, ARGS)];
            return if name_like(name) { Next::Wait } else { self.no_call(parts) };
        };
        let arguments = rest.trim_start();
        if !name_like(name) || !(arguments.is_empty() || arguments.starts_with('{')) {
            return self.no_call(parts);
        }
        let Some(length) = end.find(arguments) else { return Next::Wait };
        let whole = self.held.len() - arguments.len() + length;
        match named(name.to_owned(), &arguments[..length], &self.tools) {
            Some(call) => self.called_one(call, whole, Listed::No, parts),
            None => self.no_call(parts),
        }
    }

    fn called_one(&mut self, call: Part, length: usize, listed: Listed, parts: &mut Vec<Part>) -> Next {
        self.calls = self.calls.saturating_add(1);
        parts.push(call);
        self.held.drain(..length);
        self.state = State::Called { listed };
        Next::Again
    }

    /// What looked like a call is text; what it began with is not looked at again.
    fn no_call(&mut self, parts: &mut Vec<Part>) -> Next {
        let State::Calling { opened, .. } = std::mem::replace(&mut self.state, State::Saying) else {
            return Next::Wait;
        };
        if opened.is_empty() {
            // A bare object: it is said, or it would be taken for a call again.
            let first: String = self.held.drain(..1).collect();
            Part::append(parts, Part::Content(first));
        } else {
            Part::append(parts, Part::Content(opened));
        }
        self.nothing_said = false;
        Next::Again
    }

    /// What closes a call, or separates it from the next, is no text.
    fn called(&mut self, listed: Listed) -> Next {
        let rest = self.held.trim_start();
        let closers: &[&str] = match (self.manner, listed) {
            (Some(Manner::Tagged), _) => &[TAG_END],
            (Some(Manner::Bare), _) => &[";"],
            (Some(Manner::Listed | Manner::Spoken), Listed::Yes) => &[",", "]"],
            (Some(Manner::Listed | Manner::Spoken), Listed::No) | (None, _) => &[],
        };
        if rest.is_empty() || closers.iter().any(|closer| rest.len() < closer.len() && closer.starts_with(rest)) {
            return Next::Wait;
        }
        let closed = closers.iter().find_map(|closer| rest.strip_prefix(closer).map(|rest| (*closer, rest.to_owned())));
        match closed {
            Some((",", rest)) => {
                self.held = rest;
                self.call_opened(",".to_owned(), Listed::Yes);
            }
            Some((_, rest)) => {
                self.held = rest;
                self.state = State::AfterThought;
            }
            None => {
                self.held = rest.to_owned();
                self.state = State::Saying;
            }
        }
        Next::Again
    }

    /// Takes the text that is neither the beginning of `marker` nor white space that would belong to it.
    fn take_said(&mut self, marker: &str) -> String {
        let open = self.held.len() - overlap(&self.held, marker);
        let said = self.held[..open].trim_end().len();
        self.held.drain(..said).collect()
    }
}

/// How many bytes at the end of `text` are the beginning of `marker`.
fn overlap(text: &str, marker: &str) -> usize {
    (1..marker.len())
        .rev()
        .find(|&length| marker.is_char_boundary(length) && text.ends_with(&marker[..length]))
        .unwrap_or(0)
}

/// Whether one is the beginning of the other.
fn starts_alike(text: &str, marker: &str) -> bool {
    text.starts_with(marker) || marker.starts_with(text)
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
