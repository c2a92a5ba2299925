//! How products with 4-bit weights are computed while a prompt is read.
//!
//! ONNX Runtime's 4-bit product (`MatMulNBits`) has an attribute `accuracy_level`. Level 4, which the exporter writes
//! for processors, rounds the other factor to 8 bits, which is fastest for the few rows of decoding everywhere. For the
//! many rows of a prompt it wins only where the processor multiplies 8-bit numbers in one instruction (VNNI on x86,
//! `i8mm` on ARM). Elsewhere level 1, which unpacks the weights and multiplies in single precision, reads a prompt in
//! two thirds of the time, and rounds less. The level is fixed in the graph, so there are two sessions then: one that
//! reads and one that decodes, at the price of the packed weights twice.
//!
//! The choice depends on the processor's instructions alone, never on a measurement: two workers of one kind must give
//! the same answers.

/// The attribute in a serialised graph: `AttributeProto { name: "accuracy_level", i: 4 }` up to the number. Its last
/// byte is the level.
const LEVEL_4: &[u8] = b"\x0a\x0eaccuracy_level\x18\x04";
const LEVEL_1: u8 = 1;

/// Whether this processor multiplies 8-bit numbers in one instruction.
#[must_use]
pub fn multiplies_bytes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avxvnni") || is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("i8mm")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        true
    }
}

/// The graph with its 4-bit products in single precision; `None` if it has none of level 4.
#[must_use]
pub fn in_single_precision(mut graph: Vec<u8>) -> Option<Vec<u8>> {
    let places: Vec<usize> =
        graph.windows(LEVEL_4.len()).enumerate().filter(|(_, window)| *window == LEVEL_4).map(|(at, _)| at).collect();
    for at in &places {
        graph[at + LEVEL_4.len() - 1] = LEVEL_1;
    }
    (!places.is_empty()).then_some(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_4_becomes_level_1_and_nothing_else_changes() {
        let graph = [b"x", LEVEL_4, b"\xa0\x01\x02", LEVEL_4, b"accuracy_level\x18\x04"].concat();
        let changed = in_single_precision(graph.clone()).unwrap();
        let differing: Vec<usize> = (0..graph.len()).filter(|&at| graph[at] != changed[at]).collect();
        assert_eq!(differing, [LEVEL_4.len(), 2 * LEVEL_4.len() + 3]);
        assert!(differing.iter().all(|&at| changed[at] == 1));
    }

    #[test]
    fn a_graph_without_such_products_is_left_alone() {
        assert_eq!(in_single_precision(b"MatMul".to_vec()), None);
    }
}
