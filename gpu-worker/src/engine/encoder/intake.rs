//! From the inputs of a request to token ids, checked against what the model takes.
//!
//! What is refused here would be refused everywhere and for ever, so it is the client's to mend: an input longer than the
//! model reads (it is not cut: half a text's vector would be taken for the whole text's), an id that the model does not
//! have, a number of dimensions that it was not trained for.

use penstock_service::ports::{EngineFault, Texts};
use penstock_wire::embeddings::Inputs;

use super::folder::Shortening;
use crate::engine::tokenizer::{TextTokenizer, TokenizerError};

/// A request's inputs, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedInputs {
    /// The ids of each input; none is empty, and none longer than the context.
    pub ids: Vec<Vec<u32>>,
    /// Numbers a vector.
    pub dimensions: u32,
}

impl PreparedInputs {
    /// Tokens of all inputs.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.ids.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX)).fold(0, u32::saturating_add)
    }
}

/// Turns inputs into ids.
pub struct Intake {
    /// Texts to ids.
    pub tokenizer: TextTokenizer,
    /// Ids are below this.
    pub vocab_size: usize,
    /// The most tokens of an input.
    pub context_length: u32,
    /// Numbers a vector, before shortening.
    pub size: u32,
    /// Whether vectors may be shortened.
    pub shortening: Shortening,
    /// Texts are made lower-case first.
    pub lower_case: bool,
    /// Put before every text.
    pub prompt: String,
}

impl Intake {
    /// Turns a request's inputs into ids.
    ///
    /// # Errors
    /// [`EngineFault::BadRequest`], naming the input or field.
    pub fn prepare(&self, texts: &Texts) -> Result<PreparedInputs, EngineFault> {
        let dimensions = self.dimensions(texts.embedding.dimensions)?;
        let ids: Result<Vec<Vec<u32>>, EngineFault> = match &texts.embedding.embed {
            Inputs::Texts(texts) => texts.iter().enumerate().map(|(place, text)| self.text(place, text)).collect(),
            Inputs::Tokens(lists) => lists.iter().enumerate().map(|(place, ids)| self.checked(place, ids)).collect(),
        };
        Ok(PreparedInputs { ids: self.within(ids?)?, dimensions })
    }

    fn dimensions(&self, wanted: Option<u32>) -> Result<u32, EngineFault> {
        let Some(wanted) = wanted.filter(|wanted| *wanted != self.size) else { return Ok(self.size) };
        let refuse = |message: String| Err(bad("dimensions", "invalid_value", message));
        match &self.shortening {
            _ if wanted > self.size => {
                refuse(format!("'dimensions' is {wanted}: this model's vectors have {} numbers", self.size))
            }
            Shortening::Any => Ok(wanted),
            Shortening::To(sizes) if sizes.contains(&wanted) => Ok(wanted),
            Shortening::To(sizes) => refuse(format!("'dimensions' is {wanted}: this model was trained for {sizes:?}")),
            Shortening::Never => refuse(format!(
                "this model's vectors have {} numbers and cannot be shortened; leave 'dimensions' out",
                self.size
            )),
        }
    }

    fn text(&self, place: usize, text: &str) -> Result<Vec<u32>, EngineFault> {
        let mut whole = format!("{}{text}", self.prompt);
        if self.lower_case {
            whole = whole.to_lowercase();
        }
        let ids = self.tokenizer.encode_raw(&whole).map_err(|error| untokenizable(place, &error))?;
        if ids.is_empty() {
            let message = format!("'input[{place}]' has no token that this model knows");
            return Err(bad(&format!("input[{place}]"), "invalid_value", message));
        }
        Ok(ids)
    }

    fn checked(&self, place: usize, ids: &[u32]) -> Result<Vec<u32>, EngineFault> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids.to_vec()),
            Some(id) => {
                let message =
                    format!("'input[{place}]' holds the token id {id}: this model has {} ids", self.vocab_size);
                Err(bad(&format!("input[{place}]"), "invalid_value", message))
            }
        }
    }

    fn within(&self, inputs: Vec<Vec<u32>>) -> Result<Vec<Vec<u32>>, EngineFault> {
        let most = self.context_length as usize;
        match inputs.iter().enumerate().find(|(_, ids)| ids.len() > most) {
            None => Ok(inputs),
            Some((place, ids)) => {
                let message = format!(
                    "'input[{place}]' has {} tokens: this model reads at most {most}; split the text, or shorten it",
                    ids.len()
                );
                Err(bad(&format!("input[{place}]"), "context_length_exceeded", message))
            }
        }
    }
}

fn bad(param: &str, code: &str, message: String) -> EngineFault {
    EngineFault::BadRequest { code: code.to_owned(), param: Some(param.to_owned()), message }
}

fn untokenizable(place: usize, error: &TokenizerError) -> EngineFault {
    bad(&format!("input[{place}]"), "invalid_value", format!("'input[{place}]' cannot be tokenised: {error}"))
}

#[cfg(test)]
mod tests {
    use penstock_policy::classes::Class;
    use penstock_policy::id::{JobId, TenantId};
    use penstock_policy::time::Timestamp;
    use penstock_service::ports::Embedding;

    use super::*;
    use crate::engine::tokenizer::tests::bytes;

    fn intake() -> Intake {
        Intake {
            tokenizer: bytes(),
            vocab_size: 257,
            context_length: 12,
            size: 8,
            shortening: Shortening::Never,
            lower_case: false,
            prompt: String::new(),
        }
    }

    fn prepare(intake: &Intake, inputs: Inputs, dimensions: Option<u32>) -> Result<PreparedInputs, EngineFault> {
        let texts = Texts {
            job: JobId::new(Timestamp::from_millis(0), 1),
            tenant: TenantId::new("t").unwrap(),
            class: Class::P1,
            embedding: Embedding::new(inputs, dimensions),
        };
        intake.prepare(&texts)
    }

    fn texts(texts: &[&str]) -> Inputs {
        Inputs::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn refusal(result: Result<PreparedInputs, EngineFault>) -> (String, String) {
        let Err(EngineFault::BadRequest { code, param, .. }) = result else {
            panic!("the client's to mend: {result:?}")
        };
        (param.unwrap(), code)
    }

    #[test]
    fn texts_become_ids_and_ids_stay_as_they_are() {
        let prepared = prepare(&intake(), texts(&["ab", "C"]), None).unwrap();
        assert_eq!((prepared.ids.as_slice(), prepared.dimensions), ([vec![97, 98], vec![67]].as_slice(), 8));
        assert_eq!(prepared.tokens(), 3);
        assert_eq!(prepare(&intake(), Inputs::Tokens(vec![vec![256]]), None).unwrap().ids, [[256]]);
        let prompted = Intake { prompt: "Q:".to_owned(), lower_case: true, ..intake() };
        assert_eq!(prepare(&prompted, texts(&["X"]), None).unwrap().ids, [b"q:x".map(u32::from)]);
    }

    #[test]
    fn what_the_model_does_not_take_is_refused_by_its_place() {
        let long = "x".repeat(13);
        let of = |inputs| refusal(prepare(&intake(), inputs, None));
        assert_eq!(of(texts(&["a", &long])), ("input[1]".to_owned(), "context_length_exceeded".to_owned()));
        assert_eq!(of(Inputs::Tokens(vec![vec![1; 13]])).1, "context_length_exceeded");
        assert_eq!(of(Inputs::Tokens(vec![vec![257]])), ("input[0]".to_owned(), "invalid_value".to_owned()));
    }

    #[test]
    fn vectors_are_shortened_only_where_the_model_was_trained_for_it() {
        let of = |shortening, wanted| {
            prepare(&Intake { shortening, ..intake() }, texts(&["a"]), Some(wanted)).map(|prepared| prepared.dimensions)
        };
        assert_eq!(of(Shortening::Never, 8), Ok(8));
        assert_eq!(of(Shortening::Any, 3), Ok(3));
        assert_eq!(of(Shortening::To(vec![4]), 4), Ok(4));
        for (shortening, wanted) in [(Shortening::Never, 4), (Shortening::Any, 9), (Shortening::To(vec![4]), 5)] {
            assert!(of(shortening.clone(), wanted).is_err(), "{shortening:?} {wanted}");
        }
    }
}
