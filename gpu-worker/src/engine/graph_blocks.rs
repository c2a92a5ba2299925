//! Whether a graph over a pool of blocks is one the engine can drive, judged by its inputs and outputs.
//!
//! Such a graph takes the tokens of any number of sequences one after another. Beside them stand where each sequence begins,
//! how many tokens it has already and which blocks they are in; and, by how it was exported, bounds of their lengths and the
//! places whose logits are wanted. Windowed caches have tables of their own, which the engine does not give: they are refused
//! by name.

use penstock_policy::paged::BLOCK_TOKENS;

use super::graph::{Element, Elements, Graph, GraphError, Port, contradicts, find, float, shape};
use super::model::{ModelConfig, Names};

/// What the checks found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGraph {
    /// The numbers' types.
    pub elements: Elements,
    /// How many bounds of the lengths it takes: none, two or three.
    pub bounds: usize,
    /// Which logits it gives.
    pub logits: GivenLogits,
}

/// Which logits a graph gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenLogits {
    /// Those of every token.
    OfAll,
    /// Those of the places it is told.
    OfPlaces,
}

impl Graph {
    /// Checks a graph over blocks against its configuration.
    ///
    /// # Errors
    /// [`GraphError`], naming the tensor or the field.
    pub fn check_blocks(&self, config: &ModelConfig) -> Result<BlockGraph, GraphError> {
        let names = &config.names;
        let expect = |name: &String, element: Element, expected: &'static str| {
            let found = find(&self.inputs, name, "input")?.element;
            if found == element { Ok(()) } else { Err(GraphError::ElementType { name: name.clone(), expected }) }
        };
        expect(&names.input_ids, Element::I64, "64-bit integers")?;
        for name in [&names.block_table, &names.cumulative_lengths, &names.past_lengths] {
            expect(name, Element::I32, "32-bit integers")?;
        }
        self.count_layers(config)?;
        let first = Names::of_layer(&names.past_key, 0);
        let kv = float(find(&self.inputs, &first, "input")?)?;
        for layer in 0..config.layers {
            for pattern in [&names.past_key, &names.past_value] {
                check_pool(find(&self.inputs, &Names::of_layer(pattern, layer), "input")?, kv, config)?;
            }
            for pattern in [&names.present_key, &names.present_value] {
                check_pool(find(&self.outputs, &Names::of_layer(pattern, layer), "output")?, kv, config)?;
            }
        }
        self.refuse_others(config)?;
        let logits = find(&self.outputs, &names.logits, "output")?;
        if logits.shape.len() != 2 || contradicts(logits, 1, config.vocab_size) {
            return Err(shape(logits, "vocab_size", config.vocab_size));
        }
        let optional = |name: &String| self.inputs.iter().find(|port| port.name == *name);
        for name in [&names.length_bounds, &names.logits_places] {
            if optional(name).is_some() {
                expect(name, Element::I32, "32-bit integers")?;
            }
        }
        Ok(BlockGraph {
            elements: Elements { kv, logits: float(logits)? },
            bounds: optional(&names.length_bounds).map_or(Ok(0), count_bounds)?,
            logits: if optional(&names.logits_places).is_some() { GivenLogits::OfPlaces } else { GivenLogits::OfAll },
        })
    }

    fn refuse_others(&self, config: &ModelConfig) -> Result<(), GraphError> {
        let names = &config.names;
        let by_name = [
            &names.input_ids,
            &names.block_table,
            &names.cumulative_lengths,
            &names.past_lengths,
            &names.length_bounds,
            &names.logits_places,
        ];
        let known = |name: &String| {
            let of_layer = |pattern: &str| (0..config.layers).any(|layer| *name == Names::of_layer(pattern, layer));
            by_name.contains(&name) || of_layer(&names.past_key) || of_layer(&names.past_value)
        };
        match self.inputs.iter().find(|port| !known(&port.name)) {
            Some(port) => Err(GraphError::UnknownInput { name: port.name.clone() }),
            None => Ok(()),
        }
    }
}

/// Two bounds from above, and maybe one from below; older exports have the first two.
fn count_bounds(port: &Port) -> Result<usize, GraphError> {
    match port.shape[..] {
        [2] => Ok(2),
        [3] => Ok(3),
        _ => Err(GraphError::ElementType { name: port.name.clone(), expected: "two or three numbers" }),
    }
}

fn check_pool(port: &Port, kv: Element, config: &ModelConfig) -> Result<(), GraphError> {
    if float(port)? != kv {
        return Err(GraphError::ElementType {
            name: port.name.clone(),
            expected: "the same numbers as the cache of layer 0",
        });
    }
    if port.shape.len() != 4 || contradicts(port, 1, BLOCK_TOKENS) {
        let (name, shape) = (port.name.clone(), port.shape.clone());
        return Err(GraphError::BlockSize { name, shape, tokens: BLOCK_TOKENS });
    }
    if contradicts(port, 2, config.kv_heads) {
        return Err(shape(port, "num_key_value_heads", config.kv_heads));
    }
    if contradicts(port, 3, config.head_size) {
        return Err(shape(port, "head_size", config.head_size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Layout;
    use crate::engine::model::tests::sample;

    fn port(name: &str, element: Element, shape: &[i64]) -> Port {
        Port { name: name.into(), element, shape: shape.into() }
    }

    /// The graph that the exporter makes of the sample configuration.
    fn graph(kv: Element) -> Graph {
        let mut inputs = vec![
            port("input_ids", Element::I64, &[-1]),
            port("block_table", Element::I32, &[-1, -1]),
            port("cumulative_sequence_lengths", Element::I32, &[-1]),
            port("past_sequence_lengths", Element::I32, &[-1]),
            port("attention_metadata", Element::I32, &[3]),
            port("logits_indices", Element::I32, &[-1]),
        ];
        let mut outputs = vec![port("logits", kv, &[-1, 256])];
        for layer in 0..2 {
            for part in ["key", "value"] {
                inputs.push(port(&format!("past_key_values.{layer}.{part}"), kv, &[-1, -1, 1, 32]));
                outputs.push(port(&format!("present.{layer}.{part}"), kv, &[-1, -1, 1, 32]));
            }
        }
        Graph { inputs, outputs }
    }

    fn refusal(change: impl FnOnce(&mut Graph)) -> String {
        let mut graph = graph(Element::F16);
        change(&mut graph);
        graph.check_blocks(&sample(|_| {}).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_graph_with_tables_of_blocks_is_known_by_them() {
        let config = sample(|_| {}).unwrap();
        let mut graph = graph(Element::F16);
        assert_eq!(graph.layout(&config.names), Layout::Blocks);
        let elements = Elements { kv: Element::F16, logits: Element::F16 };
        let found = BlockGraph { elements, bounds: 3, logits: GivenLogits::OfPlaces };
        assert_eq!(graph.check_blocks(&config), Ok(found));
        graph.inputs.remove(5);
        graph.inputs.remove(4);
        let found = BlockGraph { elements, bounds: 0, logits: GivenLogits::OfAll };
        assert_eq!(graph.check_blocks(&config), Ok(found), "as exported without them");
        graph.inputs.remove(1);
        assert_eq!(graph.layout(&config.names), Layout::Rows);
    }

    #[test]
    fn every_contradiction_names_the_tensor() {
        assert!(refusal(|graph| graph.inputs[1].element = Element::I64).contains("`block_table`"));
        assert!(refusal(|graph| drop(graph.inputs.remove(3))).contains("`past_sequence_lengths`"));
        assert!(refusal(|graph| graph.inputs[4].shape = vec![4]).contains("`attention_metadata`"));
        assert!(refusal(|graph| graph.inputs[5].element = Element::Other).contains("`logits_indices`"));
        assert!(refusal(|graph| graph.inputs[7].shape[1] = 64).contains("paged_block_size=256"));
        assert!(refusal(|graph| graph.inputs[7].shape[2] = 4).contains("num_key_value_heads"));
        assert!(refusal(|graph| graph.outputs[2].shape[3] = 64).contains("head_size"));
        assert!(refusal(|graph| graph.inputs[8].element = Element::F32).contains("same numbers"));
        assert!(refusal(|graph| graph.inputs[6].element = Element::Other).contains("half precision"));
        assert!(refusal(|graph| graph.outputs[0].shape = vec![-1, -1, 256]).contains("vocab_size"));
        let windowed = port("block_table_windowed", Element::I32, &[-1, -1]);
        assert!(refusal(|graph| graph.inputs.push(windowed)).contains("block_table_windowed"));
    }
}
