//! Names exactly what gives the answers: weights, tokenizer and chat template.
//!
//! An answer begun by one worker may be continued only by a worker with the same digest. It is SHA-256 over the graph,
//! the weights beside it, the tokenizer and the template's text, each preceded by its name and length, so that no two
//! folders can run together into the same bytes. Files are read in pieces: weights may exceed memory.
//!
//! Since every byte of the graph passes by, the search for the 4-bit matrix operator happens here too: a session does
//! not tell which operators it holds. A false find costs only a row of padding.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The operator whose result for one row differs from that for several.
const QUANTIZED: &[u8] = b"MatMulNBits";

/// The identity of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    sha256: [u8; 32],
    quantized: Quantized,
}

/// Whether the graph multiplies with 4-bit weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantized {
    /// It does.
    FourBit,
    /// It does not.
    No,
}

impl Digest {
    /// The first 16 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }

    /// Whether the graph multiplies with 4-bit weights.
    #[must_use]
    pub fn quantized(&self) -> Quantized {
        self.quantized
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The digest of a model's parts. `<graph>.data` or `<graph>_data` beside the graph, as exporters name weights, is included
/// if it exists.
///
/// # Errors
/// The file that cannot be read, and why.
pub fn of_folder(graph: &Path, tokenizer: &Path, template: &str) -> Result<Digest, (PathBuf, std::io::Error)> {
    let mut hash = Sha256::new();
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let quantized = absorb(&mut hash, "graph", graph).map_err(at(graph))?;
    for suffix in [".data", "_data"] {
        let mut data = OsString::from(graph);
        data.push(suffix);
        let data = PathBuf::from(data);
        if data.try_exists().map_err(at(&data))? {
            absorb(&mut hash, "data", &data).map_err(at(&data))?;
        }
    }
    absorb(&mut hash, "tokenizer", tokenizer).map_err(at(tokenizer))?;
    frame(&mut hash, "template", template.len() as u64);
    hash.update(template);
    Ok(Digest { sha256: hash.finalize().into(), quantized })
}

fn frame(hash: &mut Sha256, name: &str, length: u64) {
    hash.update(name);
    hash.update([0]);
    hash.update(length.to_le_bytes());
}

/// Hashes a file, and tells whether the operator's name occurs in it.
fn absorb(hash: &mut Sha256, name: &str, path: &Path) -> std::io::Result<Quantized> {
    let mut file = File::open(path)?;
    frame(hash, name, file.metadata()?.len());
    let mut buffer = vec![0u8; 1 << 20];
    // The name may lie across two pieces: the end of each is kept in front of the next.
    let mut kept = 0;
    let mut quantized = Quantized::No;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(quantized);
        }
        let filled = kept + read;
        hash.update(&buffer[kept..filled]);
        if buffer[..filled].windows(QUANTIZED.len()).any(|window| window == QUANTIZED) {
            quantized = Quantized::FourBit;
        }
        let from = filled.saturating_sub(QUANTIZED.len() - 1);
        buffer.copy_within(from..filled, 0);
        kept = filled - from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, graph: &[u8], data: Option<&[u8]>, tokenizer: &[u8], template: &str) -> Digest {
        let dir = std::env::temp_dir().join(format!("penstock-digest-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("m.onnx"), graph).unwrap();
        if let Some(data) = data {
            std::fs::write(dir.join("m.onnx.data"), data).unwrap();
        }
        std::fs::write(dir.join("t.json"), tokenizer).unwrap();
        let digest = of_folder(&dir.join("m.onnx"), &dir.join("t.json"), template).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        digest
    }

    #[test]
    fn every_part_counts_and_parts_do_not_run_together() {
        let digests = [
            folder("a", b"graph", Some(b"data"), b"tok", "tpl"),
            folder("b", b"graphd", Some(b"ata"), b"tok", "tpl"),
            folder("c", b"graph", None, b"datatok", "tpl"),
            folder("d", b"graph", Some(b"data"), b"tokt", "pl"),
            folder("e", b"graph", Some(b"data"), b"tok", "tpl "),
        ];
        for (place, digest) in digests.iter().enumerate() {
            assert_eq!(digest.short().len(), 16);
            assert!(!digests[..place].contains(digest));
        }
        assert_eq!(digests[0], folder("f", b"graph", Some(b"data"), b"tok", "tpl"));
    }

    #[test]
    fn the_four_bit_operator_is_found_even_across_pieces() {
        for before in [0, 5, (1 << 20) - 4, (1 << 20) + 7] {
            let mut graph = vec![b'x'; before];
            graph.extend_from_slice(QUANTIZED);
            graph.extend_from_slice(&[b'y'; 9]);
            let digest = folder("q", &graph, None, b"t", "");
            assert_eq!(digest.quantized(), Quantized::FourBit, "after {before} bytes");
        }
        assert_eq!(folder("n", b"MatMul", None, b"t", "").quantized(), Quantized::No);
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let (path, _) = of_folder(Path::new("/nonexistent/m.onnx"), Path::new("t"), "").unwrap_err();
        assert_eq!(path, Path::new("/nonexistent/m.onnx"));
    }
}
