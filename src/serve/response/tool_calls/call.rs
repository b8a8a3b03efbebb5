//! One call as it grows: the JSON between the marks, read byte by byte.

use super::marks::CLOSE;
use super::parsed::Parsed;

/// Where in the JSON of a call the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    /// Before the brace.
    #[default]
    Start,
    /// Before a key, or the closing brace where there was no key yet.
    Key,
    /// In a key.
    InKey,
    /// Before a colon.
    Colon,
    /// Before a value.
    Value,
    /// In a value.
    InValue,
    /// Behind a value.
    Comma,
    /// Behind the closing brace.
    End,
    /// Where no JSON is.
    Broken,
}

/// A call as it grows. Its text is looked at once, byte by byte.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// All that follows the opening mark.
    pub(super) text: String,
    /// Bytes that were looked at.
    seen: usize,
    place: Place,
    /// Where the present key or value begins.
    from: usize,
    /// Lists and objects that are open within the present value.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    key: String,
    name: Option<String>,
    number: usize,
    pub(super) has_begun: bool,
    has_arguments: bool,
    /// The present value is given out as it grows, and was up to this byte.
    given: Option<usize>,
    /// Arguments that wait for the name.
    waiting: Option<String>,
    /// Where its JSON ends.
    pub(super) end: usize,
}

impl Call {
    /// Takes text. If the closing mark is in it, how many of its bytes belong to the call with the mark.
    pub(super) fn read(&mut self, text: &str, begun: &mut usize, parsed: &mut Parsed) -> Option<usize> {
        let before = self.text.len();
        self.text.push_str(text);
        while self.seen < self.text.len() {
            let byte = self.text.as_bytes()[self.seen];
            // Within a string of sound JSON the mark is a text like any other.
            if byte == b'<' && !self.in_string {
                let rest = &self.text[self.seen..];
                if rest.starts_with(CLOSE) {
                    let end = self.seen;
                    self.text.truncate(end);
                    self.give_to(end, parsed);
                    return Some(end + CLOSE.len() - before);
                }
                if CLOSE.starts_with(rest) {
                    break;
                }
            }
            self.seen += 1;
            self.step(byte, begun, parsed);
        }
        self.give_to(self.seen, parsed);
        None
    }

    /// Whether its object is complete.
    pub(super) fn is_whole(&self) -> bool {
        self.place == Place::End
    }

    /// Whether all so far is the beginning of an object.
    pub(super) fn is_readable(&self) -> bool {
        !matches!(self.place, Place::Broken | Place::End)
    }

    /// Takes the byte before `seen`.
    fn step(&mut self, byte: u8, begun: &mut usize, parsed: &mut Parsed) {
        let at = self.seen - 1;
        let is_space = byte.is_ascii_whitespace();
        match (self.place, byte) {
            (Place::Start | Place::Key | Place::Colon | Place::Value | Place::Comma, _) if is_space => {}
            (Place::Start, b'{') => self.place = Place::Key,
            (Place::Key, b'"') => (self.place, self.from, self.in_string) = (Place::InKey, at, true),
            (Place::Key | Place::Comma, b'}') => self.close(begun, parsed),
            (Place::InKey, _) => {
                if self.ends_string(byte) {
                    self.key = unquoted(&self.text[self.from..self.seen]).unwrap_or_default();
                    self.place = Place::Colon;
                }
            }
            (Place::Colon, b':') => self.place = Place::Value,
            (Place::Value, b',' | b'}' | b']') => self.place = Place::Broken,
            (Place::Value, _) => {
                (self.place, self.from, self.depth) = (Place::InValue, at, 0);
                self.in_string = byte == b'"';
                self.depth += usize::from(matches!(byte, b'{' | b'['));
                self.start_value(byte, begun, parsed);
            }
            (Place::InValue, _) => self.step_in_value(byte, at, begun, parsed),
            (Place::Comma, b',') => self.place = Place::Key,
            (Place::End | Place::Broken, _) => {}
            _ => self.place = Place::Broken,
        }
    }

    fn step_in_value(&mut self, byte: u8, at: usize, begun: &mut usize, parsed: &mut Parsed) {
        if self.in_string {
            if self.ends_string(byte) && self.depth == 0 {
                self.end_value(self.seen, begun, parsed);
            }
            return;
        }
        match byte {
            b'"' if self.depth > 0 => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.end_value(self.seen, begun, parsed);
                }
            }
            b'}' | b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                self.end_value(at, begun, parsed);
                self.step(byte, begun, parsed);
            }
            _ => {}
        }
    }

    /// Takes a byte of a string. A line break in one is no JSON.
    fn ends_string(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'\n' => (self.in_string, self.place) = (false, Place::Broken),
            b'"' => {
                self.in_string = false;
                return true;
            }
            _ => {}
        }
        false
    }

    /// Arguments that are an object are given out as they grow, once the name is known.
    fn start_value(&mut self, byte: u8, begun: &mut usize, parsed: &mut Parsed) {
        if self.is_arguments() && self.name.is_some() && matches!(byte, b'{' | b'[') {
            self.begin(begun, parsed);
            (self.given, self.has_arguments) = (Some(self.from), true);
        }
    }

    fn end_value(&mut self, end: usize, begun: &mut usize, parsed: &mut Parsed) {
        self.place = Place::Comma;
        if self.given.is_some() {
            self.give_to(end, parsed);
            self.given = None;
            return;
        }
        let value = &self.text[self.from..end];
        match self.key.as_str() {
            "name" if self.name.is_none() => match unquoted(value) {
                Some(name) => self.name = Some(name),
                None => self.place = Place::Broken,
            },
            "arguments" | "parameters" if !self.has_arguments => {
                let arguments = match unquoted(value) {
                    Some(text) => text,
                    None if value == "null" => return,
                    None => value.to_owned(),
                };
                self.has_arguments = true;
                self.waiting = Some(arguments);
            }
            _ => return,
        }
        if self.name.is_some() && self.waiting.is_some() {
            self.begin(begun, parsed);
        }
    }

    fn is_arguments(&self) -> bool {
        !self.has_arguments && (self.key == "arguments" || self.key == "parameters")
    }

    /// The object is whole.
    fn close(&mut self, begun: &mut usize, parsed: &mut Parsed) {
        self.end = self.seen;
        self.begin(begun, parsed);
        if !self.has_begun {
            self.place = Place::Broken;
            return;
        }
        self.place = Place::End;
        if !self.has_arguments {
            parsed.add_arguments(self.number, "{}".to_owned());
        }
    }

    /// Tells the name, if it is known, and the arguments that waited for it.
    pub(super) fn begin(&mut self, begun: &mut usize, parsed: &mut Parsed) {
        let Some(name) = &self.name else { return };
        if !self.has_begun {
            (self.has_begun, self.number) = (true, *begun);
            *begun += 1;
            parsed.begin(self.number, name.clone());
        }
        if let Some(arguments) = self.waiting.take() {
            parsed.add_arguments(self.number, arguments);
        }
    }

    /// Gives out the present value up to a byte.
    fn give_to(&mut self, end: usize, parsed: &mut Parsed) {
        if let Some(from) = self.given
            && from < end
        {
            parsed.add_arguments(self.number, self.text[from..end].to_owned());
            self.given = Some(end);
        }
    }

    /// Gives out what was held back as the possible beginning of the closing mark, which it is, or is no more.
    pub(super) fn give_held(&mut self, parsed: &mut Parsed) {
        let rest = &self.text[self.seen..];
        if rest.len() == 1 && !self.is_whole() {
            self.seen = self.text.len();
            self.give_to(self.seen, parsed);
        } else {
            self.text.truncate(self.seen);
        }
    }
}

/// The text that a JSON string stands for.
fn unquoted(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}
