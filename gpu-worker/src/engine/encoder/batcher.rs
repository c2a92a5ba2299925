//! The requests that an encoder has in hand: which of their texts wait, and which vectors they have already.
//!
//! Knows neither threads nor the model: it takes requests, says what to run ([`penstock_policy::window`]), takes what came
//! of it, and answers a request when its last vector is there. A request whose asker has gone is dropped when the next
//! call is put together; one whose call failed is answered at once, and its other texts are not run.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use penstock_policy::classes::Class;
use penstock_policy::time::Timestamp;
use penstock_policy::window::{self, Company, Config, Decision, Waiting};
use penstock_service::ports::{Embedded, EngineFault};

use super::Reply;
use super::intake::PreparedInputs;

/// A request that is ready to run.
pub struct Prepared {
    /// Its inputs.
    pub inputs: PreparedInputs,
    /// Its class.
    pub class: Class,
    /// When it came.
    pub arrived: Instant,
    /// Where its vectors go.
    pub(super) reply: Reply,
}

/// Texts that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The length they are padded to.
    pub width: u32,
    /// Which text of which request each row is.
    pub rows: Vec<Row>,
}

/// A text in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    request: u64,
    place: usize,
    /// Its ids, at most as many as the call is wide.
    pub ids: Vec<u32>,
    /// Numbers of its vector.
    pub dimensions: usize,
}

impl Call {
    /// Texts of nobody's, for measurements.
    #[must_use]
    pub fn of(texts: Vec<Vec<u32>>, width: u32, dimensions: usize) -> Self {
        let row = |(place, ids)| Row { request: u64::MAX, place, ids, dimensions };
        Self { width, rows: texts.into_iter().enumerate().map(row).collect() }
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Run this.
    Call(Call),
    /// Look again then, or when a request has come.
    Wait(Timestamp),
    /// Wait for a request.
    Idle,
}

struct Request {
    reply: Reply,
    vectors: Vec<Option<Vec<f32>>>,
    missing: usize,
    tokens: u32,
    dimensions: u32,
    /// When it came, until the first of its texts runs.
    arrived: Option<Instant>,
}

/// The requests in hand.
pub struct Batcher {
    config: Config,
    context_length: u32,
    /// Requests that the encoder is given at most; with so many in hand nobody else comes.
    slots: usize,
    base: Instant,
    requests: BTreeMap<u64, Request>,
    waiting: Vec<Waiting>,
    /// Beside each that waits: whose it is.
    texts: Vec<Row>,
    next: u64,
    /// When requests came whose first text has run since the last look.
    begun: Vec<Instant>,
}

impl Batcher {
    /// Nothing in hand yet.
    #[must_use]
    pub fn new(config: Config, context_length: u32, slots: usize) -> Self {
        Self {
            config,
            context_length,
            slots,
            base: Instant::now(),
            requests: BTreeMap::new(),
            waiting: Vec::new(),
            texts: Vec::new(),
            next: 0,
            begun: Vec::new(),
        }
    }

    /// The present moment on this batcher's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    fn at(&self, moment: Instant) -> Timestamp {
        let since = moment.saturating_duration_since(self.base).as_millis();
        Timestamp::from_millis(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// Takes a request.
    pub fn submit(&mut self, prepared: Prepared) {
        let Prepared { inputs, class, arrived, reply } = prepared;
        let (request, came, count) = (self.next, arrived, inputs.ids.len());
        let arrived = self.at(arrived);
        self.next += 1;
        let (tokens, dimensions) = (inputs.tokens(), inputs.dimensions);
        for (place, ids) in inputs.ids.into_iter().enumerate() {
            let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            self.waiting.push(Waiting { bucket: window::bucket(tokens, self.context_length), class, arrived });
            self.texts.push(Row { request, place, ids, dimensions: dimensions as usize });
        }
        let vectors = vec![None; count];
        self.requests
            .insert(request, Request { reply, vectors, missing: count, tokens, dimensions, arrived: Some(came) });
    }

    /// How many requests are in hand.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// How many texts wait.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Says what to do at `now`; the texts of a call do not wait any more.
    pub fn next(&mut self, now: Timestamp) -> Next {
        self.drop_abandoned();
        let company = if self.requests.len() >= self.slots { Company::AllHere } else { Company::MayCome };
        match window::next(&self.waiting, company, &self.config, now) {
            Decision::Idle => Next::Idle,
            Decision::Wait(until) => Next::Wait(until),
            Decision::Run { members, .. } => Next::Call(self.take(&members)),
        }
    }

    fn take(&mut self, members: &[usize]) -> Call {
        let width = members.first().map_or(1, |&first| self.waiting[first].bucket);
        let mut chosen = vec![false; self.texts.len()];
        members.iter().for_each(|&place| chosen[place] = true);
        let mut chosen_of_texts = chosen.iter();
        let mut rows = Vec::with_capacity(members.len());
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .zip(&chosen)
            .filter_map(|(waiting, chosen)| (!chosen).then_some(waiting))
            .collect();
        self.texts = std::mem::take(&mut self.texts)
            .into_iter()
            .filter_map(|text| match chosen_of_texts.next() {
                Some(true) => {
                    rows.push(text);
                    None
                }
                Some(false) | None => Some(text),
            })
            .collect();
        for row in &rows {
            let arrived = self.requests.get_mut(&row.request).and_then(|request| request.arrived.take());
            self.begun.extend(arrived);
        }
        Call { width, rows }
    }

    /// When the requests came whose first text has been put into a call since this was asked last.
    pub fn take_begun(&mut self) -> Vec<Instant> {
        std::mem::take(&mut self.begun)
    }

    /// Takes the vectors of a call, in the order of its rows, and answers the requests that are complete with them.
    pub fn ran(&mut self, call: &Call, vectors: Vec<Vec<f32>>) {
        for (row, vector) in call.rows.iter().zip(vectors) {
            // Not there any more if another of its texts failed.
            let Some(request) = self.requests.get_mut(&row.request) else { continue };
            request.vectors[row.place] = Some(vector);
            request.missing -= 1;
            if request.missing == 0
                && let Some(request) = self.requests.remove(&row.request)
            {
                let bytes = little_endian(request.vectors.into_iter().flatten());
                let embedded = Embedded { tokens: request.tokens, dimensions: request.dimensions, bytes };
                // Whoever asked may have gone.
                let _ = request.reply.send(Ok(embedded));
            }
        }
    }

    /// Fails the requests that have a text in this call.
    pub fn failed(&mut self, call: &Call, fault: &EngineFault) {
        for row in &call.rows {
            if let Some(request) = self.requests.remove(&row.request) {
                let _ = request.reply.send(Err(fault.clone()));
            }
        }
        self.forget_texts();
    }

    /// Ends everything.
    pub fn stop(&mut self, fault: &EngineFault) {
        for request in std::mem::take(&mut self.requests).into_values() {
            let _ = request.reply.send(Err(fault.clone()));
        }
        self.forget_texts();
    }

    fn drop_abandoned(&mut self) {
        let before = self.requests.len();
        self.requests.retain(|_, request| !request.reply.is_closed());
        if self.requests.len() < before {
            self.forget_texts();
        }
    }

    /// Removes the texts of requests that are not in hand any more.
    fn forget_texts(&mut self) {
        let requests = &self.requests;
        let mut kept =
            self.texts.iter().map(|text| requests.contains_key(&text.request)).collect::<Vec<_>>().into_iter();
        let mut also = kept.clone();
        self.waiting.retain(|_| kept.next().unwrap_or(false));
        self.texts.retain(|_| also.next().unwrap_or(false));
    }
}

fn little_endian(vectors: impl Iterator<Item = Vec<f32>>) -> Bytes {
    let mut bytes = BytesMut::new();
    vectors.flatten().for_each(|number| bytes.put_f32_le(number));
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    type Answer = oneshot::Receiver<Result<Embedded, EngineFault>>;

    fn batcher(slots: usize) -> Batcher {
        Batcher::new(Config::new(Duration::from_secs(60), 3, 1000).unwrap(), 64, slots)
    }

    fn submit(batcher: &mut Batcher, lengths: &[usize], class: Class) -> Answer {
        let (reply, answer) = oneshot::channel();
        let inputs = PreparedInputs { ids: lengths.iter().map(|length| vec![7; *length]).collect(), dimensions: 1 };
        batcher.submit(Prepared { inputs, class, arrived: Instant::now(), reply });
        answer
    }

    /// Runs what is to be run; the vector of a text is its length.
    fn run(batcher: &mut Batcher) -> Call {
        let now = batcher.now();
        let Next::Call(call) = batcher.next(now) else { panic!("nothing runs") };
        let vectors = call.rows.iter().map(|row| vec![row.ids.len() as f32]).collect();
        batcher.ran(&call, vectors);
        call
    }

    fn numbers(answer: &mut Answer) -> Vec<f32> {
        let embedded = answer.try_recv().unwrap().unwrap();
        embedded.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn texts_of_several_requests_run_together_and_each_is_answered_whole_and_in_order() {
        let mut batcher = batcher(9);
        let mut first = submit(&mut batcher, &[3, 20, 5], Class::P1);
        let mut second = submit(&mut batcher, &[4], Class::P1);
        assert_eq!(run(&mut batcher).rows.len(), 3, "three short ones fill a call");
        assert_eq!(numbers(&mut second), [4.0]);
        assert!(first.try_recv().is_err(), "its long one waits");
        let now = batcher.now();
        assert!(matches!(batcher.next(now), Next::Wait(_)));
        let Next::Call(call) = batcher.next(now.after(Duration::from_secs(61))) else { panic!("it has waited") };
        assert_eq!((call.width, call.rows[0].ids.len()), (20, 20));
        batcher.ran(&call, vec![vec![20.0]]);
        assert_eq!(numbers(&mut first), [3.0, 20.0, 5.0]);
        assert_eq!((batcher.requests(), batcher.texts()), (0, 0));
        assert_eq!(batcher.next(now), Next::Idle);
    }

    #[test]
    fn nobody_waits_when_all_slots_are_taken() {
        let mut batcher = batcher(2);
        let _first = submit(&mut batcher, &[3], Class::P2);
        let now = batcher.now();
        assert!(matches!(batcher.next(now), Next::Wait(_)));
        let _second = submit(&mut batcher, &[3], Class::P2);
        assert_eq!(run(&mut batcher).rows.len(), 2);
    }

    #[test]
    fn what_nobody_waits_for_is_not_run() {
        let mut batcher = batcher(9);
        drop(submit(&mut batcher, &[3, 4], Class::P0));
        let mut kept = submit(&mut batcher, &[5], Class::P0);
        assert_eq!(run(&mut batcher).rows.len(), 1);
        assert_eq!(numbers(&mut kept), [5.0]);
    }

    #[test]
    fn a_failed_call_fails_its_requests_and_no_other() {
        let mut batcher = batcher(9);
        let mut broken = submit(&mut batcher, &[3, 30], Class::P0);
        let mut whole = submit(&mut batcher, &[31], Class::P1);
        let now = batcher.now();
        let Next::Call(call) = batcher.next(now) else { panic!("urgent texts run at once") };
        batcher.failed(&call, &EngineFault::Fault("broken".to_owned()));
        assert!(broken.try_recv().unwrap().is_err());
        assert_eq!((batcher.requests(), batcher.texts()), (1, 1), "the other half of the broken one is gone too");
        batcher.stop(&EngineFault::Stopping);
        assert_eq!(whole.try_recv().unwrap(), Err(EngineFault::Stopping));
    }
}
