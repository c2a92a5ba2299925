//! Whether a graph is an encoder's, judged by its inputs and outputs.
//!
//! Exports differ in what they want beside ids and a mask, and in what they give: one vector a token, which is pooled
//! here, or one a text, which has gone through all modules already. Plain data in, plain data out.

use crate::engine::graph::{Element, Graph, Port};

/// What a graph wants of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its id.
    Ids,
    /// Whether it is one, or padding.
    Mask,
    /// Which of two texts it belongs to: always the first.
    Types,
    /// Where it stands.
    Positions,
}

/// What a graph gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A vector for each token.
    Tokens,
    /// A vector for each text.
    Texts,
}

/// How a graph is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Its inputs, by name.
    pub inputs: Vec<(String, Input)>,
    /// The name of the output that is read.
    pub output: String,
    /// What it holds.
    pub kind: Output,
    /// Numbers a vector, where the graph says so.
    pub size: Option<usize>,
}

/// Why a graph cannot be driven as an encoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WiringError {
    /// It wants something that an encoder has not.
    #[error(
        "the graph wants `{0}`, which texts alone do not give: export the model for the task of feature extraction, \
         without a cache"
    )]
    UnknownInput(String),
    /// It does not want what every encoder does.
    #[error("the graph has no input `{0}` of 64-bit integers: export the model for the task of feature extraction")]
    MissingInput(&'static str),
    /// It gives no vectors.
    #[error(
        "the graph gives neither `sentence_embedding` nor `last_hidden_state` nor `token_embeddings`, but {0}: export \
         the model for the task of feature extraction"
    )]
    NoVectors(String),
}

/// How to drive a graph.
///
/// # Errors
/// [`WiringError`], naming the input or output.
pub fn wire(graph: &Graph) -> Result<Wiring, WiringError> {
    let inputs = graph.inputs.iter().map(role).collect::<Result<Vec<_>, _>>()?;
    for (name, role) in [("input_ids", Input::Ids), ("attention_mask", Input::Mask)] {
        if !inputs.iter().any(|(_, found)| *found == role) {
            return Err(WiringError::MissingInput(name));
        }
    }
    let known = [
        ("sentence_embedding", Output::Texts),
        ("last_hidden_state", Output::Tokens),
        ("token_embeddings", Output::Tokens),
    ];
    let found = known.into_iter().find_map(|(name, kind)| {
        let dimensions = match kind {
            Output::Texts => 2,
            Output::Tokens => 3,
        };
        let port = graph.outputs.iter().find(|port| port.name == name)?;
        let fits = port.shape.len() == dimensions && matches!(port.element, Element::F32 | Element::F16);
        fits.then_some((port, kind))
    });
    let Some((port, kind)) = found else {
        let names: Vec<String> = graph.outputs.iter().map(|port| format!("`{}`", port.name)).collect();
        return Err(WiringError::NoVectors(if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }));
    };
    let size = port.shape.last().and_then(|size| usize::try_from(*size).ok()).filter(|size| *size > 0);
    Ok(Wiring { inputs, output: port.name.clone(), kind, size })
}

fn role(port: &Port) -> Result<(String, Input), WiringError> {
    let known = [
        ("input_ids", Input::Ids),
        ("attention_mask", Input::Mask),
        ("token_type_ids", Input::Types),
        ("position_ids", Input::Positions),
    ];
    let role = known.into_iter().find(|(name, _)| *name == port.name && port.element == Element::I64);
    role.map(|(name, role)| (name.to_owned(), role)).ok_or_else(|| WiringError::UnknownInput(port.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, element: Element, shape: &[i64]) -> Port {
        Port { name: name.to_owned(), element, shape: shape.to_vec() }
    }

    fn graph(inputs: &[&str], outputs: &[(&str, &[i64])]) -> Graph {
        Graph {
            inputs: inputs.iter().map(|name| port(name, Element::I64, &[-1, -1])).collect(),
            outputs: outputs.iter().map(|(name, shape)| port(name, Element::F32, shape)).collect(),
        }
    }

    #[test]
    fn the_usual_exports_are_understood() {
        let bert = graph(&["input_ids", "token_type_ids", "attention_mask"], &[("last_hidden_state", &[-1, -1, 384])]);
        let wiring = wire(&bert).unwrap();
        assert_eq!((wiring.kind, wiring.size, wiring.inputs[1].1), (Output::Tokens, Some(384), Input::Types));
        let outputs: &[(&str, &[i64])] = &[("token_embeddings", &[-1, -1, 8]), ("sentence_embedding", &[-1, -1])];
        let wiring = wire(&graph(&["input_ids", "attention_mask"], outputs)).unwrap();
        assert_eq!((wiring.output.as_str(), wiring.kind, wiring.size), ("sentence_embedding", Output::Texts, None));
    }

    #[test]
    fn a_graph_for_something_else_is_refused_by_what_it_wants_or_lacks() {
        let cache =
            graph(&["input_ids", "attention_mask", "past_key_values.0.key"], &[("last_hidden_state", &[-1, -1, 8])]);
        assert_eq!(wire(&cache), Err(WiringError::UnknownInput("past_key_values.0.key".to_owned())));
        let unmasked = graph(&["input_ids"], &[("last_hidden_state", &[-1, -1, 8])]);
        assert_eq!(wire(&unmasked), Err(WiringError::MissingInput("attention_mask")));
        let logits = graph(&["input_ids", "attention_mask"], &[("logits", &[-1, -1, 99])]);
        assert_eq!(wire(&logits), Err(WiringError::NoVectors("`logits`".to_owned())));
    }
}
