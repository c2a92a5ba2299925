//! Kept answers, and runs that answer a question which is asked again meanwhile.

use std::collections::BTreeMap;

use super::moment::Moment;

/// What is known of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// Its answer.
    Answered,
    /// An answer past its end.
    Stale,
    /// The job that is about to answer it.
    UnderWay(u32),
}

/// Answers by question.
#[derive(Clone, Debug)]
pub struct Kept {
    kept_secs: f64,
    answers: BTreeMap<u32, Entry>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Until when the answer is fresh.
    fresh: Option<Moment>,
    job: Option<u32>,
}

/// An answer past its end is kept so long for those who get nothing better.
const STALE_SECS: f64 = 3600.0;

impl Kept {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(kept_secs: f64) -> Self {
        Self { kept_secs, answers: BTreeMap::new() }
    }

    /// What is known of a question now.
    #[must_use]
    pub fn look(&self, question: Option<u32>, now: Moment) -> Known {
        let Some(Entry { fresh, job }) = question.and_then(|question| self.answers.get(&question)) else {
            return Known::Nothing;
        };
        match (fresh, job) {
            (Some(until), _) if *until >= now => Known::Answered,
            (_, Some(job)) => Known::UnderWay(*job),
            (Some(until), None) if until.plus(STALE_SECS) >= now => Known::Stale,
            (Some(_) | None, None) => Known::Nothing,
        }
    }

    /// A job runs for a question.
    pub fn begin(&mut self, question: Option<u32>, job: u32) {
        if let Some(question) = question {
            self.answers.entry(question).or_default().job = Some(job);
        }
    }

    /// It has ended: with an answer, or with none.
    pub fn end(&mut self, question: Option<u32>, job: u32, answered: bool, now: Moment) {
        let Some(entry) = question.and_then(|question| self.answers.get_mut(&question)) else { return };
        if entry.job == Some(job) {
            entry.job = None;
        }
        if answered {
            entry.fresh = Some(now.plus(self.kept_secs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_joined_while_its_job_runs_and_answered_until_its_end() {
        let (mut kept, at) = (Kept::new(60.0), Moment::from_secs);
        kept.begin(Some(7), 1);
        assert_eq!(kept.look(Some(7), at(0.0)), Known::UnderWay(1));
        kept.end(Some(7), 1, true, at(2.0));
        assert_eq!([kept.look(Some(7), at(62.0)), kept.look(Some(7), at(62.1))], [Known::Answered, Known::Stale]);
        assert_eq!([kept.look(Some(8), at(0.0)), kept.look(None, at(0.0))], [Known::Nothing; 2]);
        kept.begin(Some(7), 2);
        assert_eq!(kept.look(Some(7), at(70.0)), Known::UnderWay(2), "asked for anew");
        kept.end(Some(7), 2, false, at(71.0));
        assert_eq!(kept.look(Some(7), at(71.0)), Known::Stale);
    }
}
