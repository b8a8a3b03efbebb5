//! A file of JSON lines, written line by line: what is done stays when the command is interrupted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::files::lines::{JsonLines, LineBounds};
use crate::files::open::{create_output, is_there, open_regular_to_write};

/// An open output file.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
}

impl JsonlWriter {
    /// Makes or empties `path`, which must not be the command's own `input`.
    pub fn create(path: &Path, input: &Path) -> anyhow::Result<JsonlWriter> {
        refuse_input(path, input)?;
        let file = create_output(path)
            .with_context(|| format!("cannot create {}; give a file in a folder that exists", path.display()))?;
        Ok(JsonlWriter { path: path.to_owned(), file })
    }

    /// Opens `path` to go on where an earlier run stopped, or makes it: how many of its lines are whole, which must be replies to the
    /// first of `ids`, in order, under `key`. What is left of an unfinished line is cut off.
    pub fn resume(
        path: &Path,
        input: &Path,
        key: &str,
        mut ids: impl Iterator<Item = Value>,
    ) -> anyhow::Result<(JsonlWriter, usize)> {
        refuse_input(path, input)?;
        let cannot = || format!("cannot open {}; give a file in a folder that exists", path.display());
        if !is_there(path) {
            return Ok((JsonlWriter::create(path, input)?, 0));
        }
        let file = open_regular_to_write(path).with_context(cannot)?;
        let (mut whole, mut end) = (0, 0);
        let mut lines = JsonLines::of_reader(path, BufReader::new(&file), LineBounds::OWN_OUTPUT);
        while let Some(line) = lines.next_line()?.filter(|line| line.is_whole) {
            // A reply may be long; of its values only the id is made.
            let reply: Option<BTreeMap<String, &RawValue>> = serde_json::from_slice(line.json).ok();
            let id = reply.as_ref().and_then(|reply| serde_json::from_str(reply.get(key)?.get()).ok());
            let id: Value = id.unwrap_or(Value::Null);
            let expected = ids.next().unwrap_or(Value::Null);
            anyhow::ensure!(
                id == expected && !id.is_null(),
                "line {} of {} is no reply to {expected}, which comes there in the input; choose another --output",
                whole + 1,
                path.display()
            );
            (whole, end) = (whole + 1, line.start + line.bytes as u64);
        }
        Ok((JsonlWriter::cut(path, file, end).with_context(cannot)?, whole))
    }

    /// Goes on behind the first `end` bytes of an open file.
    pub fn cut(path: &Path, mut file: File, end: u64) -> io::Result<JsonlWriter> {
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(JsonlWriter { path: path.to_owned(), file })
    }

    /// Writes one line.
    pub fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line).context("a reply cannot be written as JSON")?;
        text.push(b'\n');
        self.file.write_all(&text).with_context(|| {
            format!("cannot write {}; free some space or choose another --output", self.path.display())
        })
    }
}

/// Refuses an output that is the command's own input.
pub fn refuse_input(path: &Path, input: &Path) -> anyhow::Result<()> {
    let is_input =
        matches!((path.metadata(), input.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()));
    anyhow::ensure!(!is_input, "--output {} is the input file; choose another", path.display());
    Ok(())
}

/// Writes to the terminal or a pipe; false when its reader has gone, which is no error.
pub fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Writes text of the model or its code; a terminal must not obey what stands in it.
pub fn print_untrusted(text: &str) -> anyhow::Result<bool> {
    if io::stdout().is_terminal() { print(&visible(text)) } else { print(text) }
}

/// Control characters, line breaks and tabs apart, as the escapes that name them (`\u{1b}`).
fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if acts(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::lines::VALUES_MAX;

    #[test]
    fn a_run_goes_on_behind_a_reply_of_any_number_of_values() {
        let folder = tempfile::tempdir().unwrap();
        let [path, input] = ["output", "input"].map(|name| folder.path().join(name));
        let values = "0,".repeat(VALUES_MAX + 1) + "0";
        std::fs::write(&path, format!("{{\"id\":\"a\",\"logprobs\":[{values}]}}\n{{\"id\":\"b\"")).unwrap();
        let ids = ["a", "b"].map(Value::from);
        let (mut writer, whole) = JsonlWriter::resume(&path, &input, "id", ids.into_iter()).unwrap();
        assert_eq!(whole, 1);
        writer.write(&Value::from(7)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("]}\n7\n"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_to_it() {
        assert_eq!(visible("a\x1b[2J\r\u{9b}1m\x07\tb\n"), "a\\u{1b}[2J\\r\\u{9b}1m\\u{7}\tb\n");
        assert_eq!(visible("žluťoučký 猫\n"), "žluťoučký 猫\n");
    }
}
