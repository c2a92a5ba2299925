//! The lines of a file, one after another from any place in it, holding no more of it than a segment and a line.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use penstock_policy::id::TenantId;
use penstock_wire::batches::MOST_LINE_BYTES;

use crate::files::content::{Run, read};
use crate::ports::{Blobs, PortResult};

/// Reads lines.
pub(super) struct Lines<'b> {
    bytes: BoxStream<'b, PortResult<Bytes>>,
    /// What was read and not given.
    rest: Bytes,
    /// The line that is being put together from several pieces.
    held: Vec<u8>,
    /// How many bytes of the file stand before what is read next.
    at: u64,
    ended: bool,
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its bytes, without the line's end.
    Line(Bytes),
    /// It is longer than a line may be.
    TooLong,
}

impl<'b> Lines<'b> {
    /// Begins at the byte `from`.
    pub(super) fn new(blobs: &'b dyn Blobs, tenant: &'b TenantId, runs: &'b [Run], from: u64) -> Self {
        let bytes = read(blobs, tenant, runs, from);
        Self { bytes, rest: Bytes::new(), held: Vec::new(), at: from, ended: false }
    }

    /// How many bytes of the file stand before the next line.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next line; empty ones are given too. The last one need not have an end.
    pub(super) async fn next(&mut self) -> PortResult<Option<Found>> {
        let mut length = 0usize;
        self.held.clear();
        loop {
            if self.rest.is_empty() && !self.ended {
                match self.bytes.next().await.transpose()? {
                    Some(piece) => self.rest = piece,
                    None => self.ended = true,
                }
            }
            if self.rest.is_empty() && self.ended {
                return Ok((length > 0).then(|| self.found(length, Bytes::new())));
            }
            let end = self.rest.iter().position(|byte| *byte == b'\n');
            let piece = self.rest.split_to(end.unwrap_or(self.rest.len()));
            length += piece.len();
            self.at += piece.len() as u64;
            if end.is_some() {
                let _ = self.rest.split_to(1);
                self.at += 1;
                return Ok(Some(self.found(length, piece)));
            }
            if length <= MOST_LINE_BYTES {
                self.held.extend_from_slice(&piece);
            }
        }
    }

    fn found(&mut self, length: usize, last: Bytes) -> Found {
        if length > MOST_LINE_BYTES {
            return Found::TooLong;
        }
        let mut line = if self.held.is_empty() {
            last
        } else {
            self.held.extend_from_slice(&last);
            Bytes::from(std::mem::take(&mut self.held))
        };
        if line.ends_with(b"\r") {
            line.truncate(line.len() - 1);
        }
        Found::Line(line)
    }
}

/// Whether a line says nothing: such lines are passed over.
pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};

    use super::*;

    fn lines(text: &[u8], piece: usize) -> Vec<(Option<Vec<u8>>, u64)> {
        let pieces: Vec<PortResult<Bytes>> =
            text.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let bytes = stream::iter(pieces).boxed();
        let mut lines = Lines { bytes, rest: Bytes::new(), held: Vec::new(), at: 0, ended: false };
        let mut all = Vec::new();
        while let Some(found) = lines.next().now_or_never().unwrap().unwrap() {
            let line = match found {
                Found::Line(line) => Some(line.to_vec()),
                Found::TooLong => None,
            };
            all.push((line, lines.at()));
        }
        all
    }

    #[test]
    fn lines_are_the_same_in_whatever_pieces_the_file_comes() {
        let text = b"one\r\n\ntwo\nthree, without an end";
        let whole = lines(text, text.len());
        let words: Vec<&[u8]> = whole.iter().map(|(line, _)| line.as_deref().unwrap()).collect();
        assert_eq!(words, [b"one".as_slice(), b"", b"two", b"three, without an end"]);
        assert_eq!(whole.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [5, 6, 10, text.len() as u64]);
        for piece in 1..text.len() {
            assert_eq!(lines(text, piece), whole, "{piece}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_not_held() {
        let mut text = vec![b'x'; MOST_LINE_BYTES + 1];
        text.extend_from_slice(b"\nshort\n");
        let found = lines(&text, 65_536);
        assert_eq!(found[0].0, None);
        assert_eq!(found[1].0.as_deref(), Some(b"short".as_slice()));
    }
}
