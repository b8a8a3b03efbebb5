//! Calls in the model's text, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` as Hermes and Qwen write them, read as they grow.
//! The marks themselves are never given out: what stands between them and is no call is given out as text without them, as is a mark that has
//! no partner.

mod call;
mod marks;
mod parsed;

use call::Call;
use marks::{CLOSE, OPEN, Unmarked, begun_mark, without_marks};

pub use parsed::{Parsed, extend_calls};

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
