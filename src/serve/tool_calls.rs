//! Calls in the model's text, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` as Hermes and Qwen write them, read as it comes.

use serde_json::Value;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Splits text into what is said and what is called.
#[derive(Debug, Default)]
pub struct ToolCallReader {
    /// Text that was not given out.
    held: String,
    inside: bool,
    /// Calls so far.
    calls: usize,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call: its number, the function's name, its arguments as JSON text.
    Call(usize, String, String),
}

impl ToolCallReader {
    /// Takes text; `is_last` where none will follow. What begins like a call and is none stays text.
    pub fn read(&mut self, text: &str, is_last: bool) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        loop {
            let mark = if self.inside { CLOSE } else { OPEN };
            let Some(at) = self.held.find(mark) else { break };
            let piece: String = self.held.drain(..at + mark.len()).collect();
            let piece = &piece[..at];
            if !self.inside {
                self.say(piece, &mut pieces);
            } else {
                match call(piece) {
                    Some((name, arguments)) => {
                        pieces.push(Piece::Call(self.calls, name, arguments));
                        self.calls += 1;
                    }
                    None => pieces.push(Piece::Text(format!("{OPEN}{piece}{CLOSE}"))),
                }
            }
            self.inside = !self.inside;
        }
        if is_last {
            let rest = std::mem::take(&mut self.held);
            match (self.inside, call(&rest)) {
                // The model may end its turn without the closing mark.
                (true, Some((name, arguments))) => {
                    pieces.push(Piece::Call(self.calls, name, arguments));
                    self.calls += 1;
                }
                (true, None) => pieces.push(Piece::Text(format!("{OPEN}{rest}"))),
                (false, _) => self.say(&rest, &mut pieces),
            }
        } else if !self.inside {
            let kept = (1..OPEN.len()).rev().find(|&n| self.held.ends_with(&OPEN[..n])).unwrap_or(0);
            let said: String = self.held.drain(..self.held.len() - kept).collect();
            self.say(&said, &mut pieces);
        }
        pieces
    }

    /// Whether there was a call.
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// Blank lines between calls and behind them say nothing.
    fn say(&self, text: &str, pieces: &mut Vec<Piece>) {
        let is_blank = text.trim().is_empty() && (text.is_empty() || self.calls > 0);
        if !is_blank {
            pieces.push(Piece::Text(text.to_owned()));
        }
    }
}

/// Name and arguments of a call.
fn call(text: &str) -> Option<(String, String)> {
    let json: Value = serde_json::from_str(text.trim()).ok()?;
    let name = json["name"].as_str()?.to_owned();
    let arguments = match json.get("arguments").or_else(|| json.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(arguments) => arguments.to_string(),
    };
    Some((name, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "Let me look. <tool_call>\n{\"name\": \"crop\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"zoom\"}</tool_call>";

    fn pieces(texts: &[&str]) -> Vec<Piece> {
        let mut reader = ToolCallReader::default();
        let mut pieces: Vec<Piece> = texts.iter().flat_map(|text| reader.read(text, false)).collect();
        pieces.extend(reader.read("", true));
        pieces
    }

    fn call(number: usize, name: &str, arguments: &str) -> Piece {
        Piece::Call(number, name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_are_taken_out_of_the_text() {
        let expected = [Piece::Text("Let me look. ".to_owned()), call(0, "crop", "{\"x\":1}"), call(1, "zoom", "{}")];
        assert_eq!(pieces(&[ANSWER]), expected);
    }

    #[test]
    fn where_the_text_is_cut_does_not_matter() {
        for at in 1..ANSWER.len() {
            let found = pieces(&[&ANSWER[..at], &ANSWER[at..]]);
            let calls: Vec<&Piece> = found.iter().filter(|piece| matches!(piece, Piece::Call(..))).collect();
            assert_eq!(calls, [&call(0, "crop", "{\"x\":1}"), &call(1, "zoom", "{}")]);
            let said: String = found
                .iter()
                .filter_map(|piece| match piece {
                    Piece::Text(text) => Some(text.as_str()),
                    Piece::Call(..) => None,
                })
                .collect();
            assert_eq!(said, "Let me look. ");
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in ["a < b", "<tool_call>soon", "<tool_call>{\"x\": 1}</tool_call> then", "5 <tool"] {
            let said: String = pieces(&[text])
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    Piece::Call(..) => panic!("{text} is no call"),
                })
                .collect();
            assert_eq!(said, text);
        }
    }

    #[test]
    fn a_call_may_end_with_the_answer() {
        assert_eq!(pieces(&["<tool_call>{\"name\": \"crop\", \"arguments\": \"{}\"}"]), [call(0, "crop", "{}")]);
    }
}
