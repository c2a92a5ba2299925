//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what models saw in their training: a
//! space behind commas and colons, keys in their order, nothing escaped for HTML.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The filter `tojson` of transformers' templates.
pub(super) fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let sorted: Option<bool> = options.get("sort_keys")?;
    // Given by some templates, with the value that is the default there.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    };
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sorted == Some(true) {
        json.sort_all_objects();
    }
    text(&json, indent).map_err(failed)
}

/// A value as text.
pub(super) fn text(json: &serde_json::Value, indent: Option<usize>) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let spaces = " ".repeat(indent.unwrap_or(0));
    let pretty = indent.map(|_| PrettyFormatter::with_indent(spaces.as_bytes()));
    json.serialize(&mut Serializer::with_formatter(&mut bytes, Python { pretty }))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Python<'i> {
    pretty: Option<PrettyFormatter<'i>>,
}

/// Passes a call on to the indenting formatter, if there is one.
macro_rules! pretty_or {
    ($self:ident . $method:ident ($writer:ident $(, $argument:ident)*), $otherwise:expr) => {
        match &mut $self.pretty {
            Some(pretty) => pretty.$method($writer $(, $argument)*),
            None => $writer.write_all($otherwise),
        }
    };
}

impl Formatter for Python<'_> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Python's repr: an exponent, signed and of two digits at least, below 1e-4 and from 1e16 on.
        if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
            let text = format!("{value:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            return write!(writer, "{digits}e{sign}{exponent:0>2}");
        }
        write!(writer, "{value:?}")
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.begin_array(writer), b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.end_array(writer), b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        pretty_or!(self.begin_array_value(writer, first), if first { b"" } else { b", " })
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.end_array_value(writer), b"")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.begin_object(writer), b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.end_object(writer), b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        pretty_or!(self.begin_object_key(writer, first), if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.begin_object_value(writer), b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        pretty_or!(self.end_object_value(writer), b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Python: `json.dumps(json.loads(text), ensure_ascii=False)`, and the same with `indent=2`.
    #[test]
    fn json_is_written_as_python_writes_it() {
        let value: serde_json::Value = serde_json::from_str(
            r#"{"b": "<é> & \"q\"\n\u0001", "a": [1, 2.0, 1e-5, 1e16, true, null], "c": {}, "d": []}"#,
        )
        .unwrap();
        let flat = r#"{"b": "<é> & \"q\"\n\u0001", "a": [1, 2.0, 1e-05, 1e+16, true, null], "c": {}, "d": []}"#;
        assert_eq!(text(&value, None).unwrap(), flat);
        let value = serde_json::json!({"b": {"x": 1}, "a": [1, "y"], "c": {}, "d": []});
        let indented =
            "{\n  \"b\": {\n    \"x\": 1\n  },\n  \"a\": [\n    1,\n    \"y\"\n  ],\n  \"c\": {},\n  \"d\": []\n}";
        assert_eq!(text(&value, Some(2)).unwrap(), indented);
    }
}
