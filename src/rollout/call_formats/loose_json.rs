//! JSON as models write it: what is wrong in ways that leave no doubt is put right on the way, the rest is left for the reader of JSON to
//! refuse. Sound JSON stays as it is.

use serde_json::Value;

use super::repairs::{MISSING_BRACES, PYTHON_CONSTANTS, Repairs, SINGLE_QUOTES, TRAILING_COMMA, UNESCAPED_CONTROL};
use super::written::CallProblem;
use crate::files::json::in_json_words;

/// Braces that may be missing at the end.
const MISSING_MAX: usize = 2;

/// The object or list at the beginning of `text`, and the byte where it ends. Up to two braces may be missing where the text ends, unless it
/// was cut there.
pub(super) fn read(text: &str, is_cut: bool, repairs: &mut Repairs) -> Result<(Value, usize), CallProblem> {
    let mut loose = Loose::of(text);
    if !loose.open.is_empty() && loose.at >= text.len() {
        if is_cut {
            return Err(CallProblem::Cut);
        }
        loose.close();
    }
    let value = serde_json::from_str(&loose.json).map_err(|error| CallProblem::NotJson(in_json_words(&error)))?;
    repairs.extend(loose.repairs);
    Ok((value, loose.at))
}

/// Where the object or list at the beginning of `text` ends, if it can be read.
///
/// Looks behind its end, but at no more than it needs: outside of a string it stops at the first byte that JSON has none of, as `<`. So scans
/// that begin at each tag of a text read each of its bytes three times at most: of two scans that are both within the text, one is outside
/// of strings, or the two are in strings with different quotes, and at the next tag the former stops.
pub(super) fn end_of_value(text: &str) -> Option<usize> {
    let loose = Loose::of(text);
    let is_sound = loose.open.is_empty() && serde_json::from_str::<Value>(&loose.json).is_ok();
    is_sound.then_some(loose.at)
}

/// A text on its way to JSON.
struct Loose<'a> {
    text: &'a str,
    /// Bytes that were looked at.
    at: usize,
    /// Bytes that are in `json`, or were left out of it.
    copied: usize,
    /// What was read, put right.
    json: String,
    /// The brackets that are open, by what closes them.
    open: Vec<u8>,
    is_in_string: bool,
    /// Nothing but white space stands behind a comma, and neither was copied.
    is_behind_comma: bool,
    repairs: Repairs,
}

impl<'a> Loose<'a> {
    /// Reads up to the end of the first object or list, or to where there is no JSON.
    fn of(text: &'a str) -> Self {
        let mut loose = Self {
            text,
            at: 0,
            copied: 0,
            json: String::new(),
            open: Vec::new(),
            is_in_string: false,
            is_behind_comma: false,
            repairs: Repairs::default(),
        };
        let mut goes_on = true;
        while let Some(&byte) = text.as_bytes().get(loose.at).filter(|_| goes_on) {
            goes_on = loose.step(byte);
        }
        loose.copy();
        if !loose.open.is_empty() {
            // What is no JSON, for the reader to complain of.
            loose.json.extend(text[loose.at..].chars().next());
        }
        loose
    }

    /// Takes what begins with `byte`; whether the value goes on.
    fn step(&mut self, byte: u8) -> bool {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                self.at += 1;
                return true;
            }
            b'}' | b']' => return self.close_bracket(byte),
            _ => self.is_behind_comma = false,
        }
        match byte {
            b',' => {
                self.copy();
                self.is_behind_comma = true;
            }
            b'{' => self.open.push(b'}'),
            b'[' => self.open.push(b']'),
            b'"' | b'\'' => {
                self.read_string(byte);
                return true;
            }
            b'0'..=b'9' | b'+' | b'-' | b'.' | b':' => {}
            _ if byte.is_ascii_alphabetic() => {
                self.read_word();
                return true;
            }
            _ => return false,
        }
        self.at += 1;
        true
    }

    fn close_bracket(&mut self, byte: u8) -> bool {
        if self.open.last() != Some(&byte) {
            return false;
        }
        self.open.pop();
        self.leave_comma();
        self.at += 1;
        !self.open.is_empty()
    }

    /// Leaves out a comma that nothing follows.
    fn leave_comma(&mut self) {
        if std::mem::take(&mut self.is_behind_comma) {
            self.copied = self.at;
            self.repairs.add(TRAILING_COMMA);
        }
    }

    /// Copies what was read, as it is.
    fn copy(&mut self) {
        self.json.push_str(&self.text[self.copied..self.at]);
        self.copied = self.at;
    }

    /// Puts `json` in the place of the next `bytes` bytes.
    fn replace(&mut self, bytes: usize, json: &str, repair: &'static str) {
        self.copy();
        self.json.push_str(json);
        self.at += bytes;
        self.copied = self.at;
        self.repairs.add(repair);
    }

    fn read_string(&mut self, quote: u8) {
        self.is_in_string = true;
        self.read_quote(quote);
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\\' if bytes.get(self.at + 1) == Some(&b'\'') => self.replace(2, "'", SINGLE_QUOTES),
                b'\\' => self.at = bytes.len().min(self.at + 2),
                b'"' if quote == b'\'' => self.replace(1, "\\\"", SINGLE_QUOTES),
                b'\n' => self.replace(1, "\\n", UNESCAPED_CONTROL),
                b'\t' => self.replace(1, "\\t", UNESCAPED_CONTROL),
                0..b' ' => self.replace(1, &format!("\\u{byte:04x}"), UNESCAPED_CONTROL),
                _ if byte == quote => {
                    self.is_in_string = false;
                    return self.read_quote(quote);
                }
                _ => self.at += 1,
            }
        }
    }

    fn read_quote(&mut self, quote: u8) {
        match quote {
            b'\'' => self.replace(1, "\"", SINGLE_QUOTES),
            _ => self.at += 1,
        }
    }

    fn read_word(&mut self) {
        let rest = &self.text[self.at..];
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        match json_of_constant(&rest[..length]) {
            Some(json) => self.replace(length, json, PYTHON_CONSTANTS),
            None => self.at += length,
        }
    }

    /// Closes the braces that are open at the end of the text, if they are few.
    fn close(&mut self) {
        let are_braces = self.open.len() <= MISSING_MAX && self.open.iter().all(|bracket| *bracket == b'}');
        if !are_braces || self.is_in_string {
            return;
        }
        if self.is_behind_comma {
            let kept = self.json.trim_end().trim_end_matches(',').len();
            self.json.truncate(kept);
            self.repairs.add(TRAILING_COMMA);
        }
        self.json.extend(self.open.drain(..).map(char::from));
        self.repairs.add(MISSING_BRACES);
    }
}

/// What Python's word for a constant is in JSON.
pub(super) fn json_of_constant(word: &str) -> Option<&'static str> {
    match word {
        "True" => Some("true"),
        "False" => Some("false"),
        "None" => Some("null"),
        _ => None,
    }
}
