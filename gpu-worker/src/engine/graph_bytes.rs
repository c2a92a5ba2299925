//! Small changes to a serialised graph before it is loaded, so that better kernels run it.
//!
//! Both changes replace bytes by as many others, which leaves everything else where it is; a graph that does not look as
//! expected is left alone, and run as it was exported.
//!
//! **Reading in single precision.** ONNX Runtime's 4-bit product (`MatMulNBits`) has an attribute `accuracy_level`. Level
//! 4, which the exporter writes for processors, rounds the other factor to 8 bits, which is fastest for the few rows of
//! decoding. For the many rows of a prompt level 1, which unpacks the weights and multiplies in single precision, takes
//! two thirds of the time on x86, with and without instructions for bytes, and rounds less. The level is fixed in the
//! graph, so there are two sessions then: one that reads and one that decodes, at the price of the weights twice. Whether
//! it is done depends on the kind of processor alone, never on a measurement: two workers of one kind must give the same
//! answers.
//!
//! **Our attention.** The operators `com.microsoft:GroupQueryAttention` and `com.microsoft:PagedAttention` are named in our
//! own domain instead, where [`super::attention`] answers.

/// `NodeProto.op_type`, behind which the node's attributes stand, and `AttributeProto { name: "bits" }` up to the number.
const PRODUCT: &[u8] = b"\x22\x0bMatMulNBits";
const BITS: &[u8] = b"\x0a\x04bits\x18";

/// `AttributeProto { name: "accuracy_level", i: 4 }` up to the number, its last byte.
const LEVEL_4: &[u8] = b"\x0a\x0eaccuracy_level\x18\x04";
const LEVEL_1: u8 = 1;

/// `NodeProto.op_type`, behind which the node's attributes and its domain stand.
const OPERATORS: [(&[u8], Attention); 2] =
    [(b"\x22\x13GroupQueryAttention", Attention::OverRows), (b"\x22\x0ePagedAttention", Attention::OverBlocks)];
const THEIR_DOMAIN: &[u8] = b"\x3a\x0dcom.microsoft";

/// The domain of our operators; as long as the one it replaces.
pub const OUR_DOMAIN: &str = "penstock.host";

/// How a graph's weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Products with 4-bit weights.
    pub four_bit: usize,
    /// Products with 8-bit weights.
    pub eight_bit: usize,
}

impl Weights {
    /// Looks through a graph's file; one that cannot be read has none.
    #[must_use]
    pub fn of_file(graph: &std::path::Path) -> Self {
        std::fs::read(graph).map(|bytes| Self::of(&bytes)).unwrap_or_default()
    }

    fn of(graph: &[u8]) -> Self {
        let products = places(graph, PRODUCT);
        let bits = products.iter().enumerate().filter_map(|(number, &product)| {
            let end = products.get(number + 1).copied().unwrap_or(graph.len());
            bits_of(&graph[product..end])
        });
        let mut weights = Self::default();
        for bits in bits {
            match bits {
                4 => weights.four_bit += 1,
                8 => weights.eight_bit += 1,
                _ => {}
            }
        }
        weights.eight_bit += OF_BYTES.iter().map(|operator| places(graph, operator).len()).sum::<usize>();
        weights
    }
}

/// `NodeProto.op_type` of the products with 8-bit weights that are not block by block.
const OF_BYTES: [&[u8]; 2] = [b"\x22\x0dMatMulInteger", b"\x22\x0dQLinearMatMul"];

/// The bits of a product's weights; a product's attributes follow at once, the next nodes' come later.
fn bits_of(product: &[u8]) -> Option<u8> {
    let at = places(product, BITS).first().copied()?;
    product.get(at + BITS.len()).copied()
}

/// The attention of a graph, by what its cache is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// A row for each sequence.
    OverRows,
    /// A pool of blocks.
    OverBlocks,
}

/// Whether this kind of processor reads prompts faster in single precision.
#[must_use]
pub const fn reads_faster_in_single_precision() -> bool {
    cfg!(target_arch = "x86_64")
}

/// Makes every 4-bit product of level 4 one of level 1. Says whether there was any. Products with 8-bit weights stay: in
/// single precision they take ten times as long.
pub fn read_in_single_precision(graph: &mut [u8]) -> bool {
    let products = places(graph, PRODUCT);
    let mut changed = false;
    for (number, &product) in products.iter().enumerate() {
        let end = products.get(number + 1).copied().unwrap_or(graph.len());
        let level = places(&graph[product..end], LEVEL_4).first().map(|at| product + at);
        if let (Some(4), Some(at)) = (bits_of(&graph[product..end]), level) {
            graph[at + LEVEL_4.len() - 1] = LEVEL_1;
            changed = true;
        }
    }
    changed
}

/// Names our attention in the place of every other. Says of which kind it was, if there was any; graphs have but one.
pub fn use_our_attention(graph: &mut Vec<u8>) -> Option<Attention> {
    let of_kind = |&(operator, kind): &(&[u8], Attention)| {
        let nodes = places(graph, operator);
        (!nodes.is_empty()).then_some((nodes, kind))
    };
    let (nodes, kind) = OPERATORS.iter().find_map(of_kind)?;
    for (number, &node) in nodes.iter().enumerate() {
        let end = nodes.get(number + 1).copied().unwrap_or(graph.len());
        let at = places(&graph[node..end], THEIR_DOMAIN).first().map(|at| node + at)?;
        graph[at + THEIR_DOMAIN.len() - OUR_DOMAIN.len()..][..OUR_DOMAIN.len()].copy_from_slice(OUR_DOMAIN.as_bytes());
    }
    // `ModelProto.opset_import` is repeated, and a repeated field may go on at the end of a message.
    let domain = u8::try_from(OUR_DOMAIN.len()).unwrap_or(0);
    graph.extend_from_slice(&[0x42, domain + 4, 0x0a, domain]);
    graph.extend_from_slice(OUR_DOMAIN.as_bytes());
    graph.extend_from_slice(&[0x10, 1]);
    Some(kind)
}

fn places(graph: &[u8], wanted: &[u8]) -> Vec<usize> {
    let first = wanted[0];
    let starts = graph.iter().enumerate().filter(|&(_, &byte)| byte == first).map(|(at, _)| at);
    starts.filter(|&at| graph[at..].starts_with(wanted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bit_products_of_level_4_become_level_1_and_nothing_else_changes() {
        let product = |bits| [PRODUCT, LEVEL_4, b"\xa0\x01\x02", BITS, &[bits], b"\x22\x03Add"].concat();
        let graph = [product(4), product(8), b"accuracy_level\x18\x04".to_vec(), product(4)].concat();
        let mut changed = graph.clone();
        assert!(read_in_single_precision(&mut changed));
        let differing: Vec<usize> = (0..graph.len()).filter(|&at| graph[at] != changed[at]).collect();
        let level = PRODUCT.len() + LEVEL_4.len() - 1;
        assert_eq!(differing, [level, graph.len() - product(4).len() + level]);
        assert!(differing.iter().all(|&at| changed[at] == 1));
    }

    #[test]
    fn weights_are_told_by_their_products() {
        let product = |bits| [PRODUCT, LEVEL_4, BITS, &[bits]].concat();
        let graph = [product(4), product(8), product(4), OF_BYTES[0].to_vec(), b"MatMul".to_vec()].concat();
        assert_eq!(Weights::of(&graph), Weights { four_bit: 2, eight_bit: 2 });
        assert_eq!(Weights::of(b"MatMul"), Weights::default());
    }

    #[test]
    fn every_attention_becomes_ours_and_other_operators_of_its_domain_do_not() {
        let other = [&b"\x22\x0bMatMulNBits"[..], THEIR_DOMAIN].concat();
        for (operator, kind) in OPERATORS {
            let node = [operator, b"*\x10\n\tnum_heads\x18\x08", THEIR_DOMAIN].concat();
            let graph = [&other[..], &node, &other, &node, &other].concat();
            let mut changed = graph.clone();
            assert_eq!(use_our_attention(&mut changed), Some(kind));
            assert_eq!(places(&changed, b"\x3a\x0dpenstock.host").len(), 2);
            assert_eq!(places(&changed, &other).len(), 3);
            assert_eq!(&changed[graph.len()..], b"\x42\x11\x0a\x0dpenstock.host\x10\x01");
        }
    }

    #[test]
    fn a_graph_without_such_operators_is_left_alone() {
        assert!(!read_in_single_precision(&mut b"MatMulNBits".to_vec()));
        assert_eq!(use_our_attention(&mut b"Attention".to_vec()), None);
        assert_eq!(OUR_DOMAIN.len(), "com.microsoft".len());
    }
}
