//! JSON with the spaces of Python's `json.dumps`, which chat templates write and models were trained on.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// A value on one line, with a space after each comma and colon.
pub(super) fn to_json(value: &Value) -> String {
    let mut json = Vec::new();
    let mut writer = Serializer::with_formatter(&mut json, PythonSpaces);
    value.serialize(&mut writer).expect("a JSON value has a JSON text");
    String::from_utf8(json).expect("JSON is text")
}

struct PythonSpaces;

impl Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        separate(writer, is_first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        separate(writer, is_first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn separate<W: ?Sized + io::Write>(writer: &mut W, is_first: bool) -> io::Result<()> {
    if is_first { Ok(()) } else { writer.write_all(b", ") }
}
