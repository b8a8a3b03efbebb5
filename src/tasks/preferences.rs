//! Rows of preferences in TRL's form: a prompt, and two answers to it of which one was chosen. `prompt` is a text or a list of messages (which may
//! also stand under `messages`), `chosen` and `rejected` each a text or the messages that follow the prompt. `images` are the pictures of the chosen
//! conversation; `rejected_images` those of the rejected one, and the prompt's where absent.

use std::path::Path;

use serde_json::Value;

use super::forms::{unused_mark, unused_preference_key};
use super::jsonl::{DataError, Preference, Record, rows_of};
use super::row::{Row, kind_of};
use super::{Message, Role};

/// The keys that a row may have.
const KEYS: [&str; 8] = ["prompt", "messages", "chosen", "rejected", "images", "rejected_images", "system", "question"];

/// Every line of a file of preferences, or what is wrong with it; blank ones are skipped.
///
/// # Errors
/// When the file cannot be read, holds no JSON lines, or none at all.
pub fn rows(path: &Path) -> Result<Vec<Result<Record, DataError>>, DataError> {
    rows_of(path, preference)
}

fn preference(row: Row<'_>) -> Result<Record, DataError> {
    if let Some((key, remedy)) = unused_preference_key(&row.object).or_else(|| unused_mark(&row.object)) {
        return Err(row.wrong(key, "it would be left unread", remedy));
    }
    let prompt = prompt(&row)?;
    let [chosen, rejected] = [completion(&row, "chosen", &prompt)?, completion(&row, "rejected", &prompt)?];
    let images = row.paths("images", "image")?;
    row.check_placeholders("images", &chosen, images.len())?;
    let rejected_images = match row.object.get("rejected_images") {
        None | Some(Value::Null) => images[..marks(&prompt)].to_vec(),
        Some(_) => row.paths("rejected_images", "rejected_image")?,
    };
    row.check_placeholders("rejected_images", &rejected, rejected_images.len())?;
    let asked = prompt.iter().rev().find(|message| message.role == Role::User).map(|message| message.text.as_str());
    let question = row.text("question")?.or_else(|| asked.map(without_marks));
    let (columns, tools) = (row.columns(&KEYS), row.tools(&chosen)?);
    let preference = Some(Preference { prompt_messages: prompt.len(), rejected, rejected_images });
    let (file, line) = (row.file.clone(), row.line);
    Ok(Record { messages: chosen, images, solution: None, question, columns, tools, preference, file, line })
}

/// The messages that both conversations begin with.
fn prompt(row: &Row<'_>) -> Result<Vec<Message>, DataError> {
    let key = if row.object.contains_key("messages") { "messages" } else { "prompt" };
    let remedy = "give what stands before both answers as `prompt`, a text or a list of messages, and as `chosen` and `rejected` the answers alone";
    match row.object.get(key) {
        Some(_) if key == "messages" && row.object.contains_key("prompt") => {
            Err(row.wrong("prompt", "it stands beside `messages`", "keep one of the two"))
        }
        None | Some(Value::Null) => {
            let keys = row.object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            Err(row.wrong("prompt", format!("it is missing; the row has {keys}"), remedy))
        }
        Some(Value::String(text)) => {
            let system = row.text("system")?.map(|text| Message::new(Role::System, text));
            Ok(system.into_iter().chain([Message::new(Role::User, text.as_str())]).collect())
        }
        Some(_) => {
            row.refuse_system()?;
            let messages = row.messages(key)?;
            match messages.last() {
                Some(last) if last.role == Role::Assistant => Err(row.wrong(
                    key,
                    "it ends with the assistant's message",
                    "end it with the message that is answered",
                )),
                _ => Ok(messages),
            }
        }
    }
}

/// The conversation that an answer makes of the prompt.
fn completion(row: &Row<'_>, key: &'static str, prompt: &[Message]) -> Result<Vec<Message>, DataError> {
    let remedy = "it should be the answer's text, or a list of messages that begins and ends with the assistant's";
    let answer = match row.object.get(key) {
        None | Some(Value::Null) => return Err(row.wrong(key, "it is missing", remedy)),
        Some(Value::String(text)) => vec![Message::new(Role::Assistant, text.as_str())],
        Some(Value::Array(_)) => row.messages(key)?,
        Some(other) => return Err(row.wrong(key, format!("found {}", kind_of(other)), remedy)),
    };
    let ends = [answer.first(), answer.last()];
    if let Some(other) = ends.into_iter().flatten().find(|message| message.role != Role::Assistant) {
        let problem = format!("it begins or ends with the message of the {}", other.role.as_str());
        return Err(row.wrong(key, problem, remedy));
    }
    Ok([prompt, &answer].concat())
}

fn marks(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.text.matches("<image>").count()).sum()
}

fn without_marks(text: &str) -> String {
    text.split("<image>").collect::<String>().trim().to_owned()
}
