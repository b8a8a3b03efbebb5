//! Calls in the model's text, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` as Hermes and Qwen write them, read as they grow.
//! The marks themselves are never given out: what stands between them and is no call is given out as text without them, as is a mark that has
//! no partner.

use super::wire::{FunctionCall, ToolCall};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Splits text into what is said and what is called.
#[derive(Debug, Default)]
pub struct ToolCallReader {
    /// Text outside of calls that was not given out: it may be the beginning of a mark.
    held: String,
    /// The call that is being read.
    call: Option<Call>,
    /// Calls that were begun.
    begun: usize,
    /// White space after a call or the text after it.
    blank: String,
    /// What looks like a call is text, without its marks.
    ignores_calls: bool,
    /// Text on its way out.
    unmarked: Unmarked,
}

/// Takes marks out of text, also those that come about where others were taken out.
#[derive(Debug, Default)]
struct Unmarked {
    /// Bytes that may yet belong to a mark, and with each how much of [`OPEN`] and of [`CLOSE`] ends with it.
    bytes: Vec<u8>,
    begun: Vec<(usize, usize)>,
}

impl Unmarked {
    /// Takes text; gives out what belongs to no mark whatever follows.
    fn push(&mut self, text: &str) -> String {
        for byte in text.bytes() {
            let (open, close) = self.begun.last().copied().unwrap_or_default();
            let more = |mark: &str, begun: usize| match mark.as_bytes()[begun] == byte {
                true => begun + 1,
                // No other byte of a mark is like its first.
                false => usize::from(byte == mark.as_bytes()[0]),
            };
            let (open, close) = (more(OPEN, open), more(CLOSE, close));
            self.bytes.push(byte);
            self.begun.push((open, close));
            for (mark, begun) in [(OPEN, open), (CLOSE, close)] {
                if begun == mark.len() {
                    self.bytes.truncate(self.bytes.len() - begun);
                    self.begun.truncate(self.bytes.len());
                }
            }
        }
        let held = self.begun.iter().rev().take_while(|begun| **begun != (0, 0)).count();
        self.give(self.bytes.len() - held)
    }

    /// All that is left.
    fn finish(&mut self) -> String {
        self.give(self.bytes.len())
    }

    fn give(&mut self, count: usize) -> String {
        self.begun.drain(..count);
        let bytes: Vec<u8> = self.bytes.drain(..count).collect();
        String::from_utf8(bytes).expect("marks begin and end with whole characters")
    }
}

/// What was read from a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The text outside of calls, without the marks.
    pub text: String,
    /// What is new of the calls, in order: the name of one that begins, the arguments as they grow. Ids are not made here.
    pub tool_calls: Vec<ToolCall>,
}

impl Parsed {
    fn begin(&mut self, index: usize, name: String) {
        let function = FunctionCall { name: Some(name), arguments: String::new() };
        self.tool_calls.push(ToolCall { index: Some(index), id: None, kind: None, function });
    }

    fn add_arguments(&mut self, index: usize, arguments: String) {
        let function = FunctionCall { name: None, arguments };
        extend_calls(&mut self.tool_calls, vec![ToolCall { index: Some(index), id: None, kind: None, function }]);
    }
}

/// Appends what is new of calls.
pub fn extend_calls(calls: &mut Vec<ToolCall>, new: Vec<ToolCall>) {
    for call in new {
        match calls.last_mut() {
            Some(last) if last.index == call.index => last.function.arguments.push_str(&call.function.arguments),
            _ => calls.push(call),
        }
    }
}

/// Whether the text goes on, is complete, or was truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// More will come.
    Open,
    /// Nothing will come: the model has said all.
    Said,
    /// Nothing will come: the answer was cut.
    Cut,
}

impl ToolCallReader {
    /// Only takes the marks out of the text.
    pub fn without_calls() -> ToolCallReader {
        ToolCallReader { ignores_calls: true, ..ToolCallReader::default() }
    }

    /// Takes text, and whether more follows.
    pub fn read(&mut self, text: &str, rest: Rest) -> Parsed {
        let mut parsed = Parsed::default();
        let mut text = text.to_owned();
        loop {
            match &mut self.call {
                Some(call) => {
                    let Some(behind) = call.read(&text, &mut self.begun, &mut parsed) else { break };
                    text.drain(..behind);
                    self.end_call(&mut parsed);
                }
                None => {
                    self.held.push_str(&text);
                    let Some(behind) = self.read_outside(&mut parsed) else { break };
                    text = behind;
                }
            }
        }
        if rest != Rest::Open {
            self.finish(rest, &mut parsed);
        }
        parsed
    }

    /// Whether a call was begun.
    pub fn has_calls(&self) -> bool {
        self.begun > 0
    }

    /// Gives out text up to a mark; returns what follows an opening mark.
    fn read_outside(&mut self, parsed: &mut Parsed) -> Option<String> {
        loop {
            let open = self.held.find(OPEN).map(|at| (at, OPEN));
            let close = self.held.find(CLOSE).map(|at| (at, CLOSE));
            let Some((at, mark)) = open.into_iter().chain(close).min() else { break };
            let rest = self.held.split_off(at + mark.len());
            let mut said = std::mem::replace(&mut self.held, rest);
            said.truncate(at);
            self.say(&said, parsed);
            if mark == OPEN && !self.ignores_calls {
                self.blank.clear();
                self.call = Some(Call::default());
                return Some(std::mem::take(&mut self.held));
            }
        }
        let said: String = self.held.drain(..self.held.len() - begun_mark(&self.held)).collect();
        self.say(&said, parsed);
        None
    }

    /// The call that was read is over.
    fn end_call(&mut self, parsed: &mut Parsed) {
        let Some(call) = self.call.take() else { return };
        if !call.has_begun {
            self.say(&without_marks(&call.text), parsed);
        } else if call.is_whole() {
            // Braces too many are a slip, and say nothing.
            let behind = without_marks(&call.text[call.end..]);
            if !behind.trim_matches(|c: char| c == '}' || c.is_whitespace()).is_empty() {
                self.say(&behind, parsed);
            }
        }
    }

    fn finish(&mut self, rest: Rest, parsed: &mut Parsed) {
        if let Some(call) = &mut self.call {
            call.give_held(parsed);
            if call.is_readable() && !call.has_begun {
                // All that is there may become a call: the name alone is one without arguments so far, less than that is nothing.
                call.begin(&mut self.begun, parsed);
                if !call.has_begun && rest == Rest::Cut {
                    self.call = None;
                }
            }
            self.end_call(parsed);
        }
        let held = std::mem::take(&mut self.held);
        // One character is more likely a text's own than a cut mark's, unless it follows a call.
        if rest == Rest::Said || (held.len() == 1 && self.begun == 0) {
            self.say(&held, parsed);
        }
        let held = self.unmarked.finish();
        self.give_out(&held, parsed);
    }

    /// Says text without marks.
    fn say(&mut self, text: &str, parsed: &mut Parsed) {
        let text = self.unmarked.push(text);
        self.give_out(&text, parsed);
    }

    /// White space between calls and after all text says nothing.
    fn give_out(&mut self, text: &str, parsed: &mut Parsed) {
        let mut said = std::mem::take(&mut self.blank) + text;
        if self.begun > 0 {
            self.blank = said.split_off(said.trim_end().len());
        }
        if !said.is_empty() {
            parsed.text.push_str(&said);
        }
    }
}

/// Bytes at the end of a text that may be the beginning of a mark.
fn begun_mark(text: &str) -> usize {
    let begun = |mark: &str| (1..mark.len()).rev().find(|&n| text.ends_with(&mark[..n])).unwrap_or(0);
    begun(OPEN).max(begun(CLOSE))
}

fn without_marks(text: &str) -> String {
    text.replace(OPEN, "").replace(CLOSE, "")
}

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
struct Call {
    /// All that follows the opening mark.
    text: String,
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
    has_begun: bool,
    has_arguments: bool,
    /// The present value is given out as it grows, and was up to this byte.
    given: Option<usize>,
    /// Arguments that wait for the name.
    waiting: Option<String>,
    /// Where its JSON ends.
    end: usize,
}

impl Call {
    /// Takes text. If the closing mark is in it, how many of its bytes belong to the call with the mark.
    fn read(&mut self, text: &str, begun: &mut usize, parsed: &mut Parsed) -> Option<usize> {
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

    fn is_whole(&self) -> bool {
        self.place == Place::End
    }

    /// Whether all so far is the beginning of an object.
    fn is_readable(&self) -> bool {
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
    fn begin(&mut self, begun: &mut usize, parsed: &mut Parsed) {
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
    fn give_held(&mut self, parsed: &mut Parsed) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "Let me look. <tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": 1, \"t\": \"a</tool_call>}\\\"\"}}\n</tool_call>\n<tool_call>{\"name\": \"zoom\"}</tool_call>";
    const CROP: &str = "{\"x\": 1, \"t\": \"a</tool_call>}\\\"\"}";

    /// Text, and the calls' names and arguments.
    type Read = (String, Vec<(String, String)>);

    fn read_to(texts: &[&str], rest: Rest) -> Read {
        let mut reader = ToolCallReader::default();
        let parts = texts.iter().map(|text| (*text, Rest::Open)).chain([("", rest)]);
        let mut whole = Parsed::default();
        for (text, rest) in parts {
            let parsed = reader.read(text, rest);
            whole.text += &parsed.text;
            extend_calls(&mut whole.tool_calls, parsed.tool_calls);
        }
        let calls = whole.tool_calls.into_iter().enumerate().map(|(number, call)| {
            assert_eq!(call.index, Some(number));
            (call.function.name.unwrap(), call.function.arguments)
        });
        (whole.text, calls.collect())
    }

    fn read(texts: &[&str]) -> Read {
        read_to(texts, Rest::Said)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_are_taken_out_of_the_text_wherever_it_is_cut() {
        let expected = ("Let me look. ".to_owned(), vec![call("crop", CROP), call("zoom", "{}")]);
        assert_eq!(read(&[ANSWER]), expected);
        for at in 1..ANSWER.len() {
            assert_eq!(read(&[&ANSWER[..at], &ANSWER[at..]]), expected, "{at}");
        }
        let bytes: Vec<&str> = (0..ANSWER.len()).map(|at| &ANSWER[at..=at]).collect();
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn where_no_call_is_allowed_the_text_is_without_marks() {
        let mut reader = ToolCallReader::without_calls();
        let parsed = reader.read("a <tool_call>{\"name\": \"crop\"}</tool_call>", Rest::Said);
        assert_eq!((parsed.text.as_str(), parsed.tool_calls.len()), ("a {\"name\": \"crop\"}", 0));
        assert!(!reader.has_calls());
    }

    #[test]
    fn arguments_are_given_out_as_they_grow() {
        let mut reader = ToolCallReader::default();
        let mut seen = Vec::new();
        for text in
            ["<tool_call>{\"name\": \"cr", "op\", \"arguments\": {", "\"x\": ", "[1, 2", "]}", "}</tool", "_call>"]
        {
            let parsed = reader.read(text, Rest::Open);
            let functions = parsed.tool_calls.into_iter().map(|call| (call.function.name, call.function.arguments));
            seen.push(functions.collect::<Vec<_>>());
        }
        let call = |name: Option<&str>, arguments: &str| vec![(name.map(str::to_owned), arguments.to_owned())];
        let expected = [
            Vec::new(),
            call(Some("crop"), "{"),
            call(None, "\"x\": "),
            call(None, "[1, 2"),
            call(None, "]}"),
            Vec::new(),
            Vec::new(),
        ];
        assert_eq!(seen, expected);
        assert!(reader.has_calls());
    }

    #[test]
    fn every_order_and_spelling_of_a_call_is_read() {
        for (text, expected) in [
            ("{\"arguments\": {\"x\": 1}, \"name\": \"crop\"}", "{\"x\": 1}"),
            ("{\"name\": \"crop\", \"parameters\": {\"x\": [\"}\"]}}", "{\"x\": [\"}\"]}"),
            ("{\"name\": \"crop\", \"arguments\": \"{\\\"x\\\": 1}\"}", "{\"x\": 1}"),
            ("{\"name\": \"crop\", \"arguments\": null}", "{}"),
            ("{\"name\": \"crop\", \"arguments\": 5 , \"id\": 7}", "5"),
            ("{\"id\": {\"a\": []}, \"name\": \"crop\", \"arguments\": {}}}", "{}"),
            ("{\"na\\u006de\": \"cr\\u006fp\"}", "{}"),
        ] {
            let whole = format!("<tool_call>{text}</tool_call>");
            let expected = (String::new(), vec![call("crop", expected)]);
            assert_eq!(read(&[&whole]), expected, "{text}");
            for at in 1..whole.len() {
                assert_eq!(read(&[&whole[..at], &whole[at..]]), expected, "{text} {at}");
            }
            assert_eq!(read(&[&format!("<tool_call>{text}")]), expected, "the model may end without the mark: {text}");
        }
    }

    #[test]
    fn marks_are_never_text() {
        for (text, said, calls) in [
            ("a < b", "a < b", vec![]),
            ("5 <tool", "5 <tool", vec![]),
            ("<tool_call>soon", "soon", vec![]),
            ("<tool_call>{\"x\": 1}</tool_call> then", "{\"x\": 1} then", vec![]),
            ("a</tool_call>b", "ab", vec![]),
            ("<tool_call><tool_call>{\"name\": \"a\"}</tool_call>", "{\"name\": \"a\"}", vec![]),
            ("<tool_call>{\"name\": \"a\", oops}</tool_call>", "{\"name\": \"a\", oops}", vec![]),
            ("<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>", "{\"name\": 3, \"arguments\": {}}", vec![]),
            (
                "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": oops}}</tool_call>",
                "",
                vec![call("a", "{\"x\": oops}")],
            ),
            (
                "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": \"un\n</tool_call><tool_call>{\"name\": \"b\"}</tool_call>",
                "",
                vec![call("a", "{\"x\": \"un\n"), call("b", "{}")],
            ),
            ("<tool_call>{\"name\": \"a\"} or so</tool_call>", " or so", vec![call("a", "{}")]),
            ("<tool_call>{\"name\": \"a\"}</tool_call> \n b c \n", " \n b c", vec![call("a", "{}")]),
            ("<tool_<tool_call>call>", "", vec![]),
            ("a <tool_<tool_<tool_call>call>call>b", "a b", vec![]),
            ("<tool_</tool_<tool_call>call>call>é", "é", vec![]),
            ("<tool_<tool_call>{\"name\": \"a\"}</tool_call>call>", "", vec![call("a", "{}")]),
            ("<tool_<tool_", "<tool_<tool_", vec![]),
            ("<tool_call><function=a></function></tool_call>", "<function=a></function>", vec![]),
        ] {
            assert_eq!(read(&[text]), (said.to_owned(), calls.clone()), "{text}");
            for at in (1..text.len()).filter(|at| text.is_char_boundary(*at)) {
                assert_eq!(read(&[&text[..at], &text[at..]]), (said.to_owned(), calls.clone()), "{text} {at}");
            }
        }
    }

    /// Wherever an answer is cut by its length, what was called so far is a call, and no mark is text.
    #[test]
    fn a_cut_call_is_a_call_so_far() {
        for at in 0..ANSWER.len() {
            let (said, calls) = read_to(&[&ANSWER[..at]], Rest::Cut);
            assert!("Let me look. ".starts_with(&said) || said == "Let me look. <", "{at}: {said}");
            if let Some((name, arguments)) = calls.first() {
                assert!(name == "crop" && CROP.starts_with(arguments.as_str()), "{at}: {arguments}");
            }
            assert_eq!(calls.is_empty(), at < ANSWER.find(", \"arg").unwrap(), "{at}");
        }
    }
}
