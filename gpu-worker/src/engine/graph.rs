//! Whether a graph is one the engine can drive, judged by its inputs and outputs.
//!
//! The engine gives token ids, an attention mask and the cache; a graph that wants more (positions, for one) or less
//! was exported for another runtime, and running it anyway would fail on the first request or, worse, not fail. Plain
//! data in, plain data out: ONNX Runtime's session is described by [`super::ort`].
//!
//! A graph with tables of blocks among its inputs keeps its cache in blocks, and is judged by [`super::graph_blocks`].

use super::model::{ModelConfig, Names};

/// The numbers of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Any other type.
    Other,
}

impl Element {
    /// Bytes of one number; 0 if unknown.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 => 2,
            Self::I64 => 8,
            Self::Other => 0,
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub element: Element,
    /// Its dimensions; negative where they are open.
    pub shape: Vec<i64>,
}

/// A graph's inputs and outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// What it takes.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Port>,
}

/// How a graph keeps its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A row for each sequence.
    Rows,
    /// A pool of blocks.
    Blocks,
}

/// What the checks found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements {
    /// The cache's numbers: single or half precision.
    pub kv: Element,
    /// The logits' numbers: single or half precision.
    pub logits: Element,
}

/// Why a graph cannot be driven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The number of layers differs.
    #[error(
        "genai_config.json says `num_hidden_layers` = {config}, but the graph has the cache of {graph} layers: \
         the configuration belongs to another graph"
    )]
    LayerCount {
        /// By the configuration.
        config: usize,
        /// By the graph.
        graph: usize,
    },
    /// An input or output is missing.
    #[error(
        "the graph has no {side} `{name}`: export it with onnxruntime-genai's builder, or name it in genai_config.json"
    )]
    Missing {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        name: String,
    },
    /// The graph wants something the engine does not give.
    #[error(
        "the graph wants an input `{name}` that this engine does not give: export it with rotary embedding inside its \
         attention and every layer's cache of the whole context, as onnxruntime-genai's builder does for most models"
    )]
    UnknownInput {
        /// Its name.
        name: String,
    },
    /// A tensor holds numbers of a type the engine does not handle.
    #[error("the graph's `{name}` must hold {expected}")]
    ElementType {
        /// Which tensor.
        name: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A cache of blocks of another size.
    #[error(
        "the graph's `{name}` has the shape {shape:?}, but this engine has blocks of {tokens} tokens: export it with \
         paged_block_size={tokens}"
    )]
    BlockSize {
        /// Which tensor.
        name: String,
        /// Its shape; negative where open.
        shape: Vec<i64>,
        /// The tokens of a block.
        tokens: usize,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("the graph's `{name}` has the shape {shape:?}, but genai_config.json's `{field}` is {config}")]
    Shape {
        /// Which tensor.
        name: String,
        /// Its shape; negative where open.
        shape: Vec<i64>,
        /// The field it contradicts.
        field: &'static str,
        /// What the field says.
        config: usize,
    },
}

impl Graph {
    /// Checks the graph against its configuration.
    ///
    /// # Errors
    /// [`GraphError`], naming the tensor or the field.
    pub fn check(&self, config: &ModelConfig) -> Result<Elements, GraphError> {
        let names = &config.names;
        for name in [&names.input_ids, &names.attention_mask] {
            let port = find(&self.inputs, name, "input")?;
            if port.element != Element::I64 {
                return Err(GraphError::ElementType { name: name.clone(), expected: "64-bit integers" });
            }
        }
        self.count_layers(config)?;
        let first = Names::of_layer(&names.past_key, 0);
        let kv = float(find(&self.inputs, &first, "input")?)?;
        for layer in 0..config.layers {
            for pattern in [&names.past_key, &names.past_value] {
                check_cache(find(&self.inputs, &Names::of_layer(pattern, layer), "input")?, kv, config)?;
            }
            for pattern in [&names.present_key, &names.present_value] {
                check_cache(find(&self.outputs, &Names::of_layer(pattern, layer), "output")?, kv, config)?;
            }
        }
        self.refuse_unknown_inputs(config)?;
        let logits = find(&self.outputs, &names.logits, "output")?;
        if logits.shape.len() != 3 || contradicts(logits, 2, config.vocab_size) {
            return Err(shape(logits, "vocab_size", config.vocab_size));
        }
        Ok(Elements { kv, logits: float(logits)? })
    }

    /// How the graph keeps its cache.
    #[must_use]
    pub fn layout(&self, names: &Names) -> Layout {
        let in_blocks = self.inputs.iter().any(|port| port.name == names.block_table);
        if in_blocks { Layout::Blocks } else { Layout::Rows }
    }

    pub(super) fn count_layers(&self, config: &ModelConfig) -> Result<(), GraphError> {
        let has = |layer: &usize| {
            let name = Names::of_layer(&config.names.past_key, *layer);
            self.inputs.iter().any(|port| port.name == name)
        };
        let graph = (0..self.inputs.len()).take_while(has).count();
        if graph == config.layers {
            return Ok(());
        }
        Err(GraphError::LayerCount { config: config.layers, graph })
    }

    fn refuse_unknown_inputs(&self, config: &ModelConfig) -> Result<(), GraphError> {
        let names = &config.names;
        let known = |name: &str| {
            name == names.input_ids
                || name == names.attention_mask
                || (0..config.layers).any(|layer| {
                    name == Names::of_layer(&names.past_key, layer) || name == Names::of_layer(&names.past_value, layer)
                })
        };
        match self.inputs.iter().find(|port| !known(&port.name)) {
            Some(port) => Err(GraphError::UnknownInput { name: port.name.clone() }),
            None => Ok(()),
        }
    }
}

pub(super) fn find<'p>(ports: &'p [Port], name: &str, side: &'static str) -> Result<&'p Port, GraphError> {
    let port = ports.iter().find(|port| port.name == name);
    port.ok_or_else(|| GraphError::Missing { side, name: name.to_owned() })
}

pub(super) fn float(port: &Port) -> Result<Element, GraphError> {
    match port.element {
        Element::F32 | Element::F16 => Ok(port.element),
        Element::I32 | Element::I64 | Element::Other => {
            Err(GraphError::ElementType { name: port.name.clone(), expected: "single or half precision numbers" })
        }
    }
}

fn check_cache(port: &Port, kv: Element, config: &ModelConfig) -> Result<(), GraphError> {
    if float(port)? != kv {
        return Err(GraphError::ElementType {
            name: port.name.clone(),
            expected: "the same numbers as the cache of layer 0",
        });
    }
    if port.shape.len() != 4 || contradicts(port, 1, config.kv_heads) {
        return Err(shape(port, "num_key_value_heads", config.kv_heads));
    }
    if contradicts(port, 3, config.head_size) {
        return Err(shape(port, "head_size", config.head_size));
    }
    Ok(())
}

/// Whether a dimension is fixed at another size. Open ones agree with everything.
pub(super) fn contradicts(port: &Port, dimension: usize, size: usize) -> bool {
    port.shape.get(dimension).is_some_and(|&fixed| usize::try_from(fixed).is_ok_and(|fixed| fixed != size))
}

pub(super) fn shape(port: &Port, field: &'static str, config: usize) -> GraphError {
    GraphError::Shape { name: port.name.clone(), shape: port.shape.clone(), field, config }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::tests::sample;

    fn port(name: &str, element: Element, shape: &[i64]) -> Port {
        Port { name: name.into(), element, shape: shape.into() }
    }

    /// The graph that the sample configuration describes.
    fn graph(kv: Element) -> Graph {
        let mut inputs =
            vec![port("input_ids", Element::I64, &[-1, -1]), port("attention_mask", Element::I64, &[-1, -1])];
        let mut outputs = vec![port("logits", kv, &[-1, -1, 256]), port("argmax", Element::I64, &[-1, -1])];
        for layer in 0..2 {
            for part in ["key", "value"] {
                inputs.push(port(&format!("past_key_values.{layer}.{part}"), kv, &[-1, 1, -1, 32]));
                outputs.push(port(&format!("present.{layer}.{part}"), kv, &[-1, 1, -1, 32]));
            }
        }
        Graph { inputs, outputs }
    }

    fn refusal(change: impl FnOnce(&mut Graph)) -> String {
        let mut graph = graph(Element::F32);
        change(&mut graph);
        graph.check(&sample(|_| {}).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn the_cache_s_numbers_are_read_from_the_graph() {
        for kv in [Element::F32, Element::F16] {
            let found = graph(kv).check(&sample(|_| {}).unwrap()).unwrap();
            assert_eq!(found, Elements { kv, logits: kv });
        }
    }

    #[test]
    fn a_configuration_of_another_graph_is_told_by_its_layers() {
        for layers in [1, 3] {
            let config = sample(|document| document["model"]["decoder"]["num_hidden_layers"] = layers.into()).unwrap();
            assert_eq!(graph(Element::F32).check(&config), Err(GraphError::LayerCount { config: layers, graph: 2 }));
        }
    }

    #[test]
    fn every_other_contradiction_names_the_tensor() {
        assert!(refusal(|graph| graph.inputs[0].element = Element::Other).contains("`input_ids`"));
        assert!(refusal(|graph| drop(graph.outputs.remove(0))).contains("output `logits`"));
        assert!(refusal(|graph| graph.outputs[0].shape[2] = 300).contains("vocab_size"));
        assert!(refusal(|graph| graph.inputs[3].shape[1] = 4).contains("num_key_value_heads"));
        assert!(refusal(|graph| graph.outputs[4].shape[3] = 64).contains("head_size"));
        assert!(refusal(|graph| graph.outputs[5].element = Element::F16).contains("same numbers"));
        assert!(refusal(|graph| graph.inputs[2].element = Element::Other).contains("half precision"));
        assert!(
            refusal(|graph| graph.inputs.push(port("position_ids", Element::I64, &[-1, -1]))).contains("position_ids")
        );
        assert!(refusal(|graph| drop(graph.inputs.remove(1))).contains("attention_mask"));
    }
}
