//! What a call of attention is given for each new token: packed into one tensor, or in three.

use super::refuse;

/// The new tokens' queries, keys and values.
pub(super) struct Tokens<'t, T> {
    pub(super) queries: &'t [T],
    pub(super) keys: Option<&'t [T]>,
    pub(super) values: Option<&'t [T]>,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head: usize,
}

impl<'t, T> Tokens<'t, T> {
    /// Whether there are as many numbers as `tokens` tokens have.
    pub(super) fn check(&self, tokens: usize) -> ort::Result<()> {
        let Self { heads, kv_heads, head, .. } = *self;
        let packed = if self.keys.is_some() { heads } else { heads + 2 * kv_heads };
        let apart = tokens * kv_heads * head;
        if self.queries.len() != tokens * packed * head
            || self.keys.is_some_and(|keys| keys.len() != apart)
            || self.values.is_some() != self.keys.is_some()
            || self.values.is_some_and(|values| values.len() != apart)
        {
            return refuse("queries, keys and values do not fit together");
        }
        Ok(())
    }

    /// The queries of a group of heads of a token.
    pub(super) fn queries(&self, token: usize, group: usize) -> &'t [T] {
        let Self { heads, kv_heads, head, .. } = *self;
        let stride = if self.keys.is_some() { heads } else { heads + 2 * kv_heads } * head;
        let size = heads / kv_heads * head;
        &self.queries[token * stride + group * size..][..size]
    }

    /// The key and the value of a token.
    pub(super) fn pair(&self, token: usize, kv_head: usize) -> (&'t [T], &'t [T]) {
        let Self { heads, kv_heads, head, .. } = *self;
        match (self.keys, self.values) {
            (Some(keys), Some(values)) => {
                let at = (token * kv_heads + kv_head) * head;
                (&keys[at..][..head], &values[at..][..head])
            }
            _ => {
                let start = token * (heads + 2 * kv_heads) * head + heads * head;
                let key = start + kv_head * head;
                (&self.queries[key..][..head], &self.queries[key + kv_heads * head..][..head])
            }
        }
    }
}
