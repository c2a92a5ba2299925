//! The answers of one job as the engine says them: each a sequence of its own, heard as one.
//!
//! What was heard and not written down yet is gathered here by answer. The job has ended when all its answers have; what
//! stops one of them stops the job, whose worker (this or another) goes on with each where it stood.

use std::task::Poll;

use crate::ports::{Answer, Chunk, EngineFault, FinishReason, Part, TokenEvent, TokenStream};
use crate::stored::chunk::Words;

/// What may wait to be written down at most, in bytes: far below the 400 KB of a DynamoDB item, with which log
/// probabilities of twenty tokens each would otherwise collide within a second.
const MOST_PENDING: usize = 64 << 10;

/// What an earlier worker left of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The ids it had sampled.
    pub(crate) ids: Vec<u32>,
    /// The bytes clients may have seen.
    pub(crate) bytes: usize,
}

impl Inherited {
    /// By answer, what the chunks of earlier workers hold.
    pub(crate) fn of(chunks: &[Chunk], choices: usize) -> Vec<Self> {
        let mut inherited = vec![Self::default(); choices];
        for chunk in chunks {
            if let Some(one) = inherited.get_mut(chunk.words.choice as usize) {
                one.ids.extend(&chunk.ids);
                one.bytes = one.bytes.saturating_add(chunk.words.parts.iter().map(Part::bytes).sum());
            }
        }
        inherited
    }
}

/// What is to be written down of one answer.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) ids: Vec<u32>,
    pub(crate) words: Words,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.words.parts.is_empty() && self.words.logprobs.is_empty()
    }

    fn bytes(&self) -> usize {
        let parts: usize = self.words.parts.iter().map(Part::bytes).sum();
        let logprobs: usize = self.words.logprobs.iter().map(crate::ports::TokenLogprob::bytes).sum();
        parts.saturating_add(logprobs).saturating_add(self.ids.len().saturating_mul(4))
    }
}

struct Voice {
    /// Tokens of its prompt, once known; and how many of them nobody computed for it.
    prompt_tokens: u32,
    cached_tokens: u32,
    /// `None` once it has ended.
    events: Option<TokenStream>,
    pending: Pending,
    reason: Option<FinishReason>,
}

/// What was heard.
pub(crate) enum Heard {
    /// The engine goes on; maybe there is something to write down.
    More,
    /// All answers have ended.
    Ended(Answer),
    /// One of them will not: the job stops.
    Failed(EngineFault),
    /// The engine died.
    Silence,
}

/// The answers of a job.
pub(crate) struct Voices {
    voices: Vec<Voice>,
    /// The voice that is listened to first: they take turns, so that none waits for another to end.
    first: usize,
    /// How many prompts they answer: each as many, one prompt's after another's.
    prompts: usize,
    completion_tokens: u32,
    reasoning_tokens: u32,
}

impl Voices {
    /// The answers of these streams, in their order, to so many prompts.
    pub(crate) fn new(streams: Vec<TokenStream>, prompts: usize) -> Self {
        let voice = |(choice, events)| {
            let words = Words { choice, ..Words::default() };
            Voice {
                prompt_tokens: 0,
                cached_tokens: 0,
                events: Some(events),
                pending: Pending { words, ..Pending::default() },
                reason: None,
            }
        };
        Self {
            voices: (0..).zip(streams).map(voice).collect(),
            first: 0,
            prompts: prompts.max(1),
            completion_tokens: 0,
            reasoning_tokens: 0,
        }
    }

    /// Tokens of all prompts, and those of them that nobody computed for any answer: a prompt counts once however many
    /// answers it has.
    fn read(&self) -> (u32, u32) {
        let each = self.voices.len().div_ceil(self.prompts).max(1);
        let of_prompt = |answers: &[Voice]| {
            let tokens = answers.iter().map(|voice| voice.prompt_tokens).max().unwrap_or(0);
            (tokens, answers.iter().map(|voice| voice.cached_tokens).min().unwrap_or(0))
        };
        let add = |sum: (u32, u32), one: (u32, u32)| (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1));
        self.voices.chunks(each).map(of_prompt).fold((0, 0), add)
    }

    /// Waits for the next event of any answer. May be dropped while it waits.
    pub(crate) async fn listen(&mut self) -> Heard {
        let count = self.voices.len();
        let (voice, event) = std::future::poll_fn(|context| {
            for place in (self.first..count).chain(0..self.first) {
                if let Some(events) = &mut self.voices[place].events
                    && let Poll::Ready(event) = events.poll_recv(context)
                {
                    return Poll::Ready((place, event));
                }
            }
            Poll::Pending
        })
        .await;
        self.first = (voice + 1) % count.max(1);
        match event {
            Some(event) => self.hear(voice, event),
            // A stream that ends without a verdict is an engine that died.
            None => Heard::Silence,
        }
    }

    fn hear(&mut self, voice: usize, event: TokenEvent) -> Heard {
        match event {
            TokenEvent::Started { prompt_tokens } => self.voices[voice].prompt_tokens = prompt_tokens,
            TokenEvent::Tokens { ids, parts, logprobs } => {
                let pending = &mut self.voices[voice].pending;
                pending.ids.extend(ids);
                parts.into_iter().for_each(|part| Part::append(&mut pending.words.parts, part));
                pending.words.logprobs.extend(logprobs);
            }
            TokenEvent::Finished { reason, completion_tokens, cached_tokens, reasoning_tokens } => {
                self.voices[voice].events = None;
                self.voices[voice].reason = Some(reason);
                self.completion_tokens = self.completion_tokens.saturating_add(completion_tokens);
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(reasoning_tokens);
                self.voices[voice].cached_tokens = cached_tokens;
                let reasons: Option<Vec<FinishReason>> = self.voices.iter().map(|voice| voice.reason).collect();
                if let Some(reasons) = reasons {
                    let (prompt_tokens, cached_tokens) = self.read();
                    return Heard::Ended(Answer {
                        reasons,
                        prompt_tokens,
                        completion_tokens: self.completion_tokens,
                        cached_tokens,
                        reasoning_tokens: self.reasoning_tokens,
                    });
                }
            }
            TokenEvent::Failed(fault) => return Heard::Failed(fault),
        }
        Heard::More
    }

    /// Whether there is something to write down.
    pub(crate) fn has_pending(&self) -> bool {
        self.voices.iter().any(|voice| !voice.pending.is_empty())
    }

    /// Whether there is more to write down than may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.voices.iter().any(|voice| voice.pending.bytes() >= MOST_PENDING)
    }

    /// Takes what there is to write down, answer by answer.
    pub(crate) fn take_pending(&mut self) -> Vec<Pending> {
        let take = |voice: &mut Voice| {
            let words = Words { choice: voice.pending.words.choice, ..Words::default() };
            std::mem::replace(&mut voice.pending, Pending { words, ..Pending::default() })
        };
        self.voices.iter_mut().filter(|voice| !voice.pending.is_empty()).map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    fn tokens(id: u32, text: &str) -> TokenEvent {
        TokenEvent::Tokens { ids: vec![id], parts: vec![Part::Content(text.to_owned())], logprobs: Vec::new() }
    }

    fn finished(reason: FinishReason, tokens: u32, cached: u32) -> TokenEvent {
        TokenEvent::Finished { reason, completion_tokens: tokens, cached_tokens: cached, reasoning_tokens: 1 }
    }

    #[test]
    fn answers_are_kept_apart_and_the_job_ends_with_the_last_of_them() {
        let (first, stream) = mpsc::channel(9);
        let (second, other) = mpsc::channel(9);
        let mut voices = Voices::new(vec![stream, other], 1);
        for event in [TokenEvent::Started { prompt_tokens: 4 }, tokens(1, "a"), tokens(2, "b")] {
            first.try_send(event).unwrap();
        }
        second.try_send(tokens(3, "x")).unwrap();
        first.try_send(finished(FinishReason::Stop, 3, 2)).unwrap();
        for _ in 0..5 {
            assert!(matches!(voices.listen().now_or_never(), Some(Heard::More)));
        }
        assert!(voices.listen().now_or_never().is_none(), "the second goes on");
        let pending = voices.take_pending();
        let seen: Vec<_> =
            pending.iter().map(|one| (one.words.choice, one.ids.clone(), one.words.parts.clone())).collect();
        assert_eq!(seen[0], (0, vec![1, 2], vec![Part::Content("ab".to_owned())]));
        assert_eq!(seen[1], (1, vec![3], vec![Part::Content("x".to_owned())]));
        assert!(!voices.has_pending());
        second.try_send(finished(FinishReason::Length, 5, 7)).unwrap();
        let Some(Heard::Ended(answer)) = voices.listen().now_or_never() else { panic!("both have ended") };
        assert_eq!(answer.reasons, [FinishReason::Stop, FinishReason::Length]);
        assert_eq!((answer.prompt_tokens, answer.completion_tokens), (4, 8));
        assert_eq!((answer.cached_tokens, answer.reasoning_tokens), (2, 2));
    }

    #[test]
    fn each_prompt_counts_once_however_many_answers_it_has() {
        let (senders, streams): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel(9)).unzip();
        let mut voices = Voices::new(streams, 2);
        for (sender, (prompt_tokens, cached)) in senders.iter().zip([(5, 0), (5, 4), (7, 6), (7, 5)]) {
            sender.try_send(TokenEvent::Started { prompt_tokens }).unwrap();
            sender.try_send(finished(FinishReason::Stop, 1, cached)).unwrap();
        }
        let answer = loop {
            if let Heard::Ended(answer) = voices.listen().now_or_never().unwrap() {
                break answer;
            }
        };
        assert_eq!((answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens), (12, 5, 4));
    }

    #[test]
    fn no_answer_waits_until_a_talkative_one_has_ended() {
        let (first, stream) = mpsc::channel(99);
        let (second, other) = mpsc::channel(9);
        for number in 0..50 {
            first.try_send(tokens(number, "a")).unwrap();
        }
        second.try_send(tokens(1, "x")).unwrap();
        let mut voices = Voices::new(vec![stream, other], 1);
        for _ in 0..2 {
            voices.listen().now_or_never().unwrap();
        }
        assert_eq!(voices.take_pending().len(), 2);
    }

    #[test]
    fn a_stream_that_ends_without_a_word_is_an_engine_that_died() {
        let (events, stream) = mpsc::channel(1);
        drop(events);
        assert!(matches!(Voices::new(vec![stream], 1).listen().now_or_never(), Some(Heard::Silence)));
    }

    #[test]
    fn too_much_to_wait_is_noticed() {
        let (events, stream) = mpsc::channel(9);
        let mut voices = Voices::new(vec![stream], 1);
        events.try_send(tokens(1, &"x".repeat(MOST_PENDING))).unwrap();
        voices.listen().now_or_never().unwrap();
        assert!(voices.is_full());
    }
}
