//! Files of JSON lines, read a line at a time: a file of any length takes the memory of its longest line, which has a bound.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::open::open_regular;
use super::{foreign_start, json_line};

/// Most bytes of a line; that of a request's body too.
pub const LINE_BYTES_MAX: u64 = 64 << 20;
/// Most values of a line, and of a request's body: in memory a value is many times larger than in a file.
pub const VALUES_MAX: usize = 4 << 20;
/// Most pictures of a line: more fill any model's context.
pub const PICTURES_MAX: usize = 1 << 10;
/// Most messages of a line.
pub const MESSAGES_MAX: usize = 1 << 14;

/// The bounds of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineBounds {
    /// Most bytes of a line, its line feed included.
    pub bytes: u64,
    /// Most JSON values of a line, as [`count_values`] counts them.
    pub values: usize,
}

impl LineBounds {
    /// Of a file that somebody else wrote.
    pub const INPUT: LineBounds = LineBounds { bytes: LINE_BYTES_MAX, values: VALUES_MAX };
    /// Of a file that the program itself wrote: a reply has as many values as were asked for.
    pub const OWN_OUTPUT: LineBounds = LineBounds { bytes: 1 << 30, values: usize::MAX };
}

/// About how many values a text of JSON has, told by what stands before each; seldom too few, and by one.
pub fn count_values(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// A file of JSON lines that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}; give a file of JSON lines", path.display())]
    Read {
        /// The file as the caller names it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {problem}", path.display())]
    Foreign {
        /// The file as the caller names it.
        path: PathBuf,
        /// What it is, and the remedy.
        problem: &'static str,
    },
    /// A line is out of all bounds.
    #[error("{}:{line}: the line has more than {what}; write one object a line, and name pictures by their paths", path.display())]
    TooLong {
        /// The file as the caller names it.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Of what it has too many, and how many it may have.
        what: String,
    },
}

/// An open file of JSON lines.
#[derive(Debug)]
pub struct JsonLines<R = BufReader<File>> {
    path: PathBuf,
    reader: R,
    bounds: LineBounds,
    number: usize,
    end: u64,
    text: Vec<u8>,
}

/// A line that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number, from 1.
    pub number: usize,
    /// Where in the file it begins, in bytes.
    pub start: u64,
    /// Its bytes there, the end of the line included.
    pub bytes: usize,
    /// Its JSON, without marks and space around it.
    pub json: &'a [u8],
    /// Whether it ends with a line feed.
    pub is_whole: bool,
}

impl JsonLines {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is no regular file that can be read, or begins as something else than JSON lines does.
    pub fn open(path: &Path) -> Result<JsonLines, LinesError> {
        let read = |source| LinesError::Read { path: path.to_owned(), source };
        let reader = BufReader::new(open_regular(path).map_err(read)?);
        let mut lines = JsonLines::of_reader(path, reader, LineBounds::INPUT);
        let start = lines.reader.fill_buf().map_err(read)?;
        match foreign_start(start) {
            Some(problem) => Err(LinesError::Foreign { path: path.to_owned(), problem }),
            None => Ok(lines),
        }
    }
}

impl<R: BufRead> JsonLines<R> {
    /// The lines of what is open already, with bounds of their own; `path` is its name in errors.
    pub fn of_reader(path: &Path, reader: R, bounds: LineBounds) -> JsonLines<R> {
        JsonLines { path: path.to_owned(), reader, bounds, number: 0, end: 0, text: Vec::new() }
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// When the file cannot be read, or the line is out of all bounds.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, LinesError> {
        let bounds = self.bounds;
        loop {
            self.text.clear();
            let read = (&mut self.reader).take(bounds.bytes + 1).read_until(b'\n', &mut self.text);
            let bytes = read.map_err(|source| LinesError::Read { path: self.path.clone(), source })?;
            self.number += 1;
            self.end += bytes as u64;
            if bytes == 0 {
                return Ok(None);
            }
            if bytes as u64 > bounds.bytes {
                return Err(self.too_long(format!("{} bytes", bounds.bytes)));
            }
            if !json_line(&self.text).is_empty() {
                break;
            }
        }
        if count_values(&self.text) > bounds.values {
            return Err(self.too_long(format!("{} values", bounds.values)));
        }
        let bytes = self.text.len();
        Ok(Some(Line {
            number: self.number,
            start: self.end - bytes as u64,
            bytes,
            json: json_line(&self.text),
            is_whole: self.text.ends_with(b"\n"),
        }))
    }

    fn too_long(&self, what: String) -> LinesError {
        LinesError::TooLong { path: self.path.clone(), line: self.number, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_where_they_stand_and_have_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, b"\xEF\xBB\xBF{}\r\n\n  \n{\"a\":1}\n\0\0\0\n12345678901\n[]").unwrap();
        let bounds = LineBounds { bytes: 11, ..LineBounds::INPUT };
        let mut lines = JsonLines::of_reader(&path, BufReader::new(File::open(&path).unwrap()), bounds);
        let mut next = || lines.next_line().unwrap().map(|line| (line.number, line.start, line.json.to_vec()));
        assert_eq!(next(), Some((1, 0, b"{}".to_vec())));
        assert_eq!(next(), Some((4, 11, b"{\"a\":1}".to_vec())));
        assert_eq!(next(), Some((5, 19, b"\0\0\0".to_vec())));
        let error = lines.next_line().unwrap_err().to_string();
        assert!(error.contains("lines:6: the line has more than 11 bytes"), "{error}");
        let sparse = File::create(&path).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let error = JsonLines::open(&path).unwrap().next_line().unwrap_err().to_string();
        assert!(error.contains("lines:1: the line has more than 67108864 bytes"), "{error}");
        std::fs::write(&path, [b'[', b',', b']', b' '].repeat(VALUES_MAX)).unwrap();
        let error = JsonLines::open(&path).unwrap().next_line().unwrap_err().to_string();
        assert!(error.contains("values"), "{error}");
    }
}
