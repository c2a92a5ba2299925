//! What a node of attention says of itself.

use ort::operator::KernelContext;

use super::refuse;
use crate::engine::attention::Shape;

/// What the node says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    scale: Option<f32>,
    pub(super) rotary: bool,
}

impl Attributes {
    /// Reads them; `usual` are those that are understood with one value only.
    pub(super) fn of(node: &KernelContext<'_>, usual: &[(&str, i64)]) -> ort::Result<Self> {
        let whole = |name: &str, absent: i64| node.get::<i64>(name).unwrap_or(absent);
        let count = |name: &str| usize::try_from(whole(name, 0)).unwrap_or(0);
        let (heads, kv_heads) = (count("num_heads"), count("kv_num_heads"));
        if kv_heads == 0 || heads % kv_heads != 0 {
            return refuse(format!("{heads} heads do not share {kv_heads} heads of keys and values"));
        }
        for &(name, usual) in usual {
            if whole(name, usual) != usual {
                return refuse(format!("`{name}` is not supported"));
            }
        }
        if node.get::<f32>("softcap").unwrap_or(0.0) != 0.0 {
            return refuse("`softcap` is not supported");
        }
        let scale = node.get::<f32>("scale").filter(|scale| *scale != 0.0);
        Ok(Self { heads, kv_heads, scale, rotary: whole("do_rotary", 0) == 1 })
    }

    /// The shape of attention with heads of `head` numbers.
    pub(super) fn shape(&self, head: usize) -> Shape {
        Shape {
            group: self.heads / self.kv_heads,
            kv_heads: self.kv_heads,
            head,
            #[expect(clippy::cast_precision_loss, reason = "heads have a few hundred numbers at most")]
            scale: self.scale.unwrap_or_else(|| 1.0 / (head as f32).sqrt()),
        }
    }
}
