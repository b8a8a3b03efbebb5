//! Scores answers that exist: lines with `answer` or `text`, `solution` and `question`, by the rewards of a recipe and without a model.

use std::fmt;
use std::io::BufRead;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use thiserror::Error;

use super::columns_of;
use crate::files::json::in_words_of_line;
use crate::files::lines::{JsonLines, Line, LinesError};
use crate::files::object_remedy;
use crate::rollout::answer::{ANSWER_CLOSE, ANSWER_OPEN};
use crate::rollout::call::{CODE_CLOSE, CODE_OPEN};
use crate::rollout::environments::think_with_code::{OUTPUT_CLOSE, OUTPUT_OPEN};
use crate::rollout::images::TrajectoryImages;
use crate::rollout::reward::{Needs, View};
use crate::rollout::reward_set::{Parts, RewardSet};
use crate::rollout::trajectory::End;
use crate::tasks::Solution;

/// Columns that are written to each line.
const SCORES: &str = "scores";
const UNSCORED: &str = "unscored";

/// Lines that cannot be scored.
#[derive(Debug, Error)]
pub enum PredictionError {
    /// The file cannot be read as JSON lines.
    #[error(transparent)]
    Lines(#[from] LinesError),
    /// A line that cannot be scored.
    #[error("line {line}: {problem}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
}

/// What one reward said of all lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// The reward's registered name.
    pub name: &'static str,
    /// Lines with a score.
    pub scored: usize,
    /// Lines without a score.
    pub unscored: usize,
    /// Sum of the scores.
    pub sum: f64,
}

/// Scores each line of a file (JSON objects, one a line): the same lines with `scores` (a number by reward, null where there is none) and
/// `unscored` (why, by reward), every other column as it was; and what each reward said of all.
///
/// A line's answer is its column `answer` as it stands, else what stands between `<answer>` tags in its column `text`. Rewards that read
/// more than a line has leave it unscored.
///
/// # Errors
/// The first line that is no object, has neither column, or a column of another type.
pub fn score_lines(
    mut lines: JsonLines<impl BufRead>,
    rewards: &RewardSet,
) -> Result<(String, Vec<Column>), PredictionError> {
    let mut written = String::new();
    let mut columns: Vec<Column> = rewards.weights().map(|(name, _)| Column { name, ..Column::default() }).collect();
    while let Some(Line { number, json: line, .. }) = lines.next_line()? {
        let wrong = |problem: String| PredictionError::Line { line: number, problem };
        let mut row: Row = serde_json::from_slice(line).map_err(|error| {
            wrong(format!("not a JSON object ({}); {}", in_words_of_line(&error), object_remedy(line)))
        })?;
        let prediction = Prediction::read(&row).map_err(wrong)?;
        let scores = prediction.score(rewards);
        for (column, (_, score)) in columns.iter_mut().zip(&scores) {
            match score.value() {
                Some(value) => (column.scored, column.sum) = (column.scored + 1, column.sum + value),
                None => column.unscored += 1,
            }
        }
        let [values, reasons] = columns_of(&scores);
        row.set(SCORES, &values);
        row.set(UNSCORED, &reasons);
        written += &serde_json::to_string(&row).expect("a read row can be written");
        written.push('\n');
    }
    Ok((written, columns))
}

/// What a line says of an answer.
struct Prediction {
    answer: Option<String>,
    text: Option<String>,
    question: String,
    solution: Solution,
    /// The line's other columns.
    columns: Map<String, Value>,
}

impl Prediction {
    fn read(row: &Row) -> Result<Self, String> {
        let text = |key: &str| match row.get(key)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            Value::Number(_) => Ok(row.raw(key).map(str::to_owned)),
            other => Err(format!("`{key}` is {other}; it should be a string or a number")),
        };
        let (answer, text) = (text("answer")?, text("text")?.map(|text| own_text(&text)));
        if answer.is_none() && text.is_none() {
            return Err("it has neither `answer` nor `text`; give one of them".to_owned());
        }
        let question = match row.get("question")? {
            Value::Null => String::new(),
            Value::String(question) => question,
            other => return Err(format!("`question` is {other}; it should be a string")),
        };
        let solution = match row.get("solution")? {
            Value::Number(_) => Solution::text(row.raw("solution").unwrap_or_default()),
            value => Solution::read(&value).map_err(|problem| format!("`solution`: {problem}"))?,
        };
        let columns = row.others(&["answer", "text", "question", "solution"])?;
        Ok(Self { answer, text, question, solution, columns })
    }

    fn score(&self, rewards: &RewardSet) -> Parts {
        let text = self.text.clone().unwrap_or_default();
        let answer = self.answer.clone().or_else(|| answer_in(&text).map(str::to_owned));
        let view = View {
            thought: thought_in(&text),
            text,
            answer,
            turns: &[],
            calls: &[],
            own_tokens: 0,
            images: &TrajectoryImages::default(),
            end: &End::Answered,
            question: &self.question,
            solution: &self.solution,
            columns: Some(&self.columns),
        };
        let missing = |_: &View<'_>, needs| match needs {
            Needs::Answer => None,
            Needs::Text if self.text.is_some() => None,
            Needs::Text => Some("the line has no `text`".to_owned()),
            Needs::Calls => Some("the line does not say how the calls went".to_owned()),
            Needs::Tokens => Some("the line does not say how many tokens the model sampled".to_owned()),
        };
        rewards.score_where(&[view], missing).remove(0)
    }
}

/// What stands between the last `</answer>` of a text and the last `<answer>` before it, trimmed: the model may have spoken of the tags
/// before it answered. `None` without the pair.
fn answer_in(text: &str) -> Option<&str> {
    let (before, _) = text.rsplit_once(ANSWER_CLOSE)?;
    let (_, answer) = before.rsplit_once(ANSWER_OPEN)?;
    Some(answer.split(ANSWER_CLOSE).next().unwrap_or(answer).trim())
}

/// What stands before the last `<answer>` of a text, without code: a line end is in place of it.
fn thought_in(text: &str) -> String {
    let mut rest = text.rsplit_once(ANSWER_OPEN).map_or(text, |(before, _)| before);
    let mut thought = String::new();
    while let Some((before, after)) = rest.split_once(CODE_OPEN) {
        thought.push_str(before);
        thought.push('\n');
        rest = after.split_once(CODE_CLOSE).map_or("", |(_, after)| after);
    }
    thought + rest
}

/// A text without what tools said in it: a program may print an answer's tags.
fn own_text(text: &str) -> String {
    let mut own = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OUTPUT_OPEN) {
        own.push_str(before);
        rest = after.split_once(OUTPUT_CLOSE).map_or("", |(_, after)| after);
    }
    own + rest
}

/// The columns of a line in order, each as it was written.
struct Row(Vec<(String, Box<RawValue>)>);

impl Row {
    fn get(&self, key: &str) -> Result<Value, String> {
        let found = self.0.iter().rev().find(|(name, _)| name == key);
        found.map_or(Ok(Value::Null), |(_, raw)| {
            serde_json::from_str(raw.get()).map_err(|error| format!("`{key}` cannot be read: {error}"))
        })
    }

    /// The columns of other names.
    fn others(&self, names: &[&str]) -> Result<Map<String, Value>, String> {
        let others = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        others.map(|(name, _)| Ok((name.clone(), self.get(name)?))).collect()
    }

    /// A column as it was written: a number has all its digits.
    fn raw(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, raw)| raw.get())
    }

    fn set(&mut self, key: &str, value: &Value) {
        self.0.retain(|(name, _)| name != key);
        let raw = RawValue::from_string(value.to_string()).expect("a value's own text is JSON");
        self.0.push((key.to_owned(), raw));
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Row(columns))
            }
        }

        deserializer.deserialize_map(Columns)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::files::lines::LineBounds;
    use crate::rollout::registry::Registry;
    use crate::rollout::reward_set::RewardSettings;

    fn lines(text: &str) -> JsonLines<&[u8]> {
        JsonLines::of_reader(Path::new("lines"), text.as_bytes(), LineBounds::INPUT)
    }

    fn score(text: &str) -> Result<(String, Vec<Column>), PredictionError> {
        score_lines(lines(text), &RewardSet::answer_only(&Registry::default()).unwrap())
    }

    #[test]
    fn lines_keep_their_columns_and_gain_scores() {
        let lines = "\u{feff}{\"id\":123456789012345678901234567890,\"answer\":\"7\",\"solution\":\"7\",\"x\":1.10}\n\n\
                     {\"text\":\"<answer>8</answer>\",\"solution\":[\"7\",\"eight\"],\"scores\":0}\n{\"answer\":\"7\"}\n\
                     {\"answer\":12345678901234567890123,\"solution\":12345678901234567890123}\n";
        let (written, columns) = score(lines).unwrap();
        assert_eq!(
            written,
            "{\"id\":123456789012345678901234567890,\"answer\":\"7\",\"solution\":\"7\",\"x\":1.10,\"scores\":{\"answer\":1.0},\
             \"unscored\":{}}\n\
             {\"text\":\"<answer>8</answer>\",\"solution\":[\"7\",\"eight\"],\"scores\":{\"answer\":1.0},\"unscored\":{}}\n\
             {\"answer\":\"7\",\"scores\":{\"answer\":null},\"unscored\":{\"answer\":\"the task has no reference answer\"}}\n\
             {\"answer\":12345678901234567890123,\"solution\":12345678901234567890123,\"scores\":{\"answer\":1.0},\"unscored\":{}}\n"
        );
        assert_eq!(columns, [Column { name: "answer", scored: 3, unscored: 1, sum: 3.0 }]);
    }

    #[test]
    fn what_a_line_does_not_have_is_unscored_by_name() {
        let rewards = RewardSet::new(&RewardSettings::default(), &Registry::default()).unwrap();
        let line = "{\"answer\":\"7\",\"solution\":\"7\",\"question\":\"q\"}";
        let (written, _) = score_lines(lines(line), &rewards).unwrap();
        assert!(
            written.contains("\"scores\":{\"format\":null,\"answer\":1.0,\"consistency\":null,\"tool_success\":null}"),
            "{written}"
        );
        let text = "{\"text\":\"<think>7</think>\\n<sandbox_output><answer>8</answer></sandbox_output><answer>7</answer>\",\"solution\":\"7\"}";
        let (written, _) = score_lines(lines(text), &rewards).unwrap();
        assert!(written.contains("\"answer\":1.0,\"consistency\":1.0"), "{written}");
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, problem) in [
            ("[1]", "not a JSON object"),
            ("{", "not a JSON object"),
            ("{\"solution\":\"7\"}", "neither `answer` nor `text`"),
            ("{\"answer\":[1],\"solution\":\"7\"}", "`answer` is [1]"),
            ("{\"answer\":\"7\",\"solution\":{\"regex\":\"(\"}}", "`solution`"),
            ("{\"answer\":\"7\",\"solution\":\"7\",\"question\":3}", "`question` is 3"),
        ] {
            let error = score(&format!("{{\"answer\":\"7\"}}\n\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 3: ") && error.contains(problem), "{error}");
        }
    }
}
