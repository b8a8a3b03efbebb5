//! Recognises the rows of other systems' data files by their keys, so that an error can name the form of a row and say how to convert it.

use serde_json::{Map, Value};

/// A form that a row may have.
struct Form {
    /// Whose it is, and its keys.
    name: &'static str,
    has_it: fn(&Map<String, Value>) -> bool,
    /// How to make a row of a data file of it; `None` where it is one already.
    as_data: Option<&'static str>,
    /// How to make a line of a request file of it; `None` where it is one already.
    as_request: Option<&'static str>,
}

/// A form that a file of another kind has: its name, and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Whose it is, and its keys.
    pub name: &'static str,
    /// How to make a row of the expected kind of it.
    pub remedy: &'static str,
}

const REQUEST: &str = "a request is {\"id\": ..., \"messages\": [{\"role\": \"user\", \"content\": ...}]}, a picture in it a content part \
                       {\"type\": \"image\", \"image\": path}";
const TURNS: &str = "name `from` `role`, \"human\" \"user\", \"gpt\" \"assistant\", and `value` `content`";

/// All forms that are known. Where a row has the keys of several, the first counts.
static FORMS: [Form; 20] = [
    Form {
        name: "OpenAI's batch file (`custom_id`, `url`, `body`)",
        has_it: |row| has_all(row, &["custom_id", "body"]),
        as_data: Some("it asks for an answer and is no example; `thyme-engine batch` answers it"),
        as_request: Some("`thyme-engine batch` answers it where the file's first line has this form"),
    },
    Form {
        name: "ShareGPT (`messages` with `from` and `value`)",
        has_it: |row| turns_have(row, "messages", "from"),
        as_data: Some(TURNS),
        as_request: Some(TURNS),
    },
    Form {
        name: "OpenAI, transformers and Anthropic (`messages` whose `content` is a list of parts such as {\"type\": \"image_url\"})",
        has_it: |row| turns(row, "messages").any(|turn| turn["content"].is_array()),
        as_data: Some(
            "write each `content` as one string with `<image>` where a picture stands, and the pictures' paths under `images`, in order",
        ),
        as_request: None,
    },
    Form {
        name: "LLaVA, which is ShareGPT's with pictures (`conversations` with `from` and `value`, `image`)",
        has_it: |row| row.contains_key("conversations") && has_any(row, &["image", "images", "video", "videos"]),
        as_data: Some(
            "of one exchange make `question` (the human's value) and `response` (gpt's), beside `image`; of several make `messages` with \
             `role` and `content`, beside `images`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "ShareGPT, as LLaVA's rows without a picture (`conversations` with `from` and `value`)",
        has_it: |row| row.contains_key("conversations"),
        as_data: Some(
            "of one exchange make `question` (the human's value) and `response` (gpt's); of several make `messages` with `role` and `content`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "XTuner (`conversation` with `input` and `output`)",
        has_it: |row| row.contains_key("conversation"),
        as_data: Some("make `question` of `input` and `response` of `output`, beside `image` and `system`"),
        as_request: Some(REQUEST),
    },
    Form {
        name: "ms-swift (`query`, `response`, `images`)",
        has_it: |row| row.contains_key("query"),
        as_data: Some(
            "name `query` `question` and `images` `image`; where there is a `history`, make `messages` of all turns",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "verl (`prompt`, `reward_model` with `ground_truth`, `data_source`, `extra_info`)",
        has_it: |row| has_any(row, &["reward_model", "data_source", "extra_info"]),
        as_data: Some(
            "name `prompt` `messages`, and make `solution` of `reward_model.ground_truth` and `images` of the pictures' paths",
        ),
        as_request: Some("name `prompt` `messages`, give an `id`, and leave the other keys out"),
    },
    Form {
        name: "TRL's preferences (`chosen`, `rejected`)",
        has_it: |row| has_any(row, &["chosen", "rejected"]),
        as_data: Some(
            "`method = \"dpo\"` learns from preferences; for SFT make `question` of `prompt` and `response` of `chosen`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "TRL (`prompt`, `completion`)",
        has_it: |row| row.contains_key("prompt") && has_any(row, &["completion", "completions"]),
        as_data: Some(
            "name `prompt` `question` and `completion` `response`; where both are lists of messages, join them as `messages`",
        ),
        as_request: Some("leave `completion` out; a `prompt` that is a list of messages goes under `messages`"),
    },
    Form {
        name: "TRL (`prompt` as a list of messages)",
        has_it: |row| turns_have(row, "prompt", "role"),
        as_data: Some("name `prompt` `messages`, and give the right answer as `solution`"),
        as_request: Some("name `prompt` `messages`"),
    },
    Form {
        name: "Alpaca (`instruction`, `input`, `output`)",
        has_it: |row| row.contains_key("instruction") || has_all(row, &["input", "output"]),
        as_data: Some("make `question` of `instruction` and `input`, and `response` of `output`"),
        as_request: Some(REQUEST),
    },
    Form {
        name: "R1-V and EasyR1 (`problem`, `solution` or `answer`)",
        has_it: |row| row.contains_key("problem"),
        as_data: Some(
            "make `messages` of `problem` (role \"user\"), name `answer` `solution`, and give the pictures' paths as `images`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "Gemini (`contents` with `parts`)",
        has_it: |row| row.contains_key("contents"),
        as_data: Some(
            "make `messages` of `contents`, each with `role` (\"model\" is \"assistant\") and its text as `content`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "The Cauldron (`texts` with `user` and `assistant`)",
        has_it: |row| turns_have(row, "texts", "user"),
        as_data: Some(
            "of each of `texts` make a row of `question` (user) and `response` (assistant), and give the pictures' paths as `image`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "questions and answers (`question`, `answer`)",
        has_it: |row| {
            row.contains_key("question") && has_any(row, &["answer", "answers", "label", "multiple_choice_answer"])
        },
        as_data: Some(
            "for GRPO make `messages` of `question` (role \"user\") and name `answer` `solution`; for SFT name it `response`",
        ),
        as_request: Some(REQUEST),
    },
    Form {
        name: "TRL's prompts (`prompt`)",
        has_it: |row| row.contains_key("prompt"),
        as_data: Some("for GRPO make `messages` of `prompt` (role \"user\") and give the right answer as `solution`"),
        as_request: None,
    },
    Form {
        name: "TRL's language modelling (`text`)",
        has_it: |row| row.contains_key("text") && !has_any(row, &["messages", "question", "response"]),
        as_data: Some("SFT learns an assistant's words: give `question` and `response`, or `messages`"),
        as_request: Some("give an `id`, and name `text` `prompt`"),
    },
    Form {
        name: "Thyme's demonstrations (`image`, `question`, `response`)",
        has_it: |row| has_any(row, &["question", "response"]),
        as_data: None,
        as_request: Some(REQUEST),
    },
    Form {
        name: "Thyme's tasks (`messages`, `images`, `solution`)",
        has_it: |row| has_all(row, &["messages", "solution"]),
        as_data: None,
        as_request: Some(REQUEST),
    },
];

/// Keys whose contents would be lost, because nothing here reads them, and the remedy.
const UNUSED_KEYS: [(&str, &str); 13] = [
    (
        "kto_tag",
        "no method here learns from single answers that are liked or not; take out the rows that are not to be learned, and the key",
    ),
    (
        "rejected_images",
        "`method = \"dpo\"` learns from preferences (`prompt`, `chosen`, `rejected`); take the key out to learn from the answer that was chosen",
    ),
    ("margin", "no method here reads how much an answer was preferred; take the key out"),
    ("video", "only pictures are read; give frames as `images`, each with its `<image>`"),
    ("videos", "only pictures are read; give frames as `images`, each with its `<image>`"),
    ("audio", "only pictures are read; leave such rows out"),
    ("audios", "only pictures are read; leave such rows out"),
    ("objects", "boxes and names stand in the text itself; write them there"),
    ("history", "write all turns as `messages`"),
    (
        "rejected_response",
        "`method = \"dpo\"` learns from preferences (`prompt`, `chosen`, `rejected`); take the key out to learn from the answer that was chosen",
    ),
    (
        "rejected_messages",
        "`method = \"dpo\"` learns from preferences (`prompt`, `chosen`, `rejected`); take the key out to learn from the answer that was chosen",
    ),
    (
        "rejected",
        "`method = \"dpo\"` learns from preferences; take the key out to learn from the answer that was chosen",
    ),
    ("chosen", "`method = \"dpo\"` learns from preferences; write the answer that was chosen as `response`"),
];

/// A key of a row whose contents would be lost, and the remedy.
pub fn unused_key(row: &Map<String, Value>) -> Option<(&'static str, &'static str)> {
    UNUSED_KEYS.into_iter().find(|(key, _)| row.get(*key).is_some_and(has_content))
}

/// The same of a row of preferences.
pub fn unused_preference_key(row: &Map<String, Value>) -> Option<(&'static str, &'static str)> {
    let is_read = |key: &str| ["chosen", "rejected", "rejected_images"].contains(&key);
    UNUSED_KEYS.into_iter().find(|(key, _)| !is_read(key) && row.get(*key).is_some_and(has_content))
}

/// What a turn or a row says of its own worth that would be lost: `label: false`, `weight: 0`, `loss: false`, `reasoning_content`.
pub fn unused_mark(row: &Map<String, Value>) -> Option<(&'static str, &'static str)> {
    const NOT_LEARNED: &str = "every answer of a row is learned (sft.train_turns says which turns); take the row or the turn out, and the key";
    let marks = |object: &Map<String, Value>| {
        let is_off = |key: &str| object.get(key).is_some_and(|value| *value == false || value.as_f64() == Some(0.0));
        let off = ["label", "weight", "loss"].into_iter().find(|key| is_off(key)).map(|key| (key, NOT_LEARNED));
        let thought = object.get("reasoning_content").is_some_and(has_content);
        off.or(thought
            .then_some(("reasoning_content", "write the thought into `content`, in the tags that the model uses")))
    };
    let turns = row.get("messages").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    marks(row).or_else(|| turns.into_iter().find_map(marks))
}

/// Whether a value says something: neither null nor an empty list or text.
pub fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// The form of a row that is not a row of a data file, if the form is known.
pub fn foreign_data(row: &Map<String, Value>) -> Option<Foreign> {
    if has_all(row, &["question", "response"]) || has_plain_messages(row) {
        return None;
    }
    let form = FORMS.iter().find(|form| (form.has_it)(row))?;
    Some(Foreign { name: form.name, remedy: form.as_data? })
}

/// The form of a row that is not a line of a request file, if the form is known.
pub fn foreign_request(row: &Map<String, Value>) -> Option<Foreign> {
    let form = FORMS.iter().find(|form| (form.has_it)(row))?;
    Some(Foreign { name: form.name, remedy: form.as_request? })
}

/// Whether `messages` is a list of turns, each with a role and not of parts.
fn has_plain_messages(row: &Map<String, Value>) -> bool {
    let is_plain = |turn: &Value| turn.get("role").is_some() && !turn["content"].is_array();
    row.get("messages").and_then(Value::as_array).is_some_and(|turns| turns.iter().all(is_plain))
}

fn has_all(row: &Map<String, Value>, keys: &[&str]) -> bool {
    keys.iter().all(|key| row.contains_key(*key))
}

fn has_any(row: &Map<String, Value>, keys: &[&str]) -> bool {
    keys.iter().any(|key| row.contains_key(*key))
}

/// The elements of a list under a key.
fn turns<'a>(row: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    row.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Whether a list under `key` has objects with `field`.
fn turns_have(row: &Map<String, Value>, key: &str, field: &str) -> bool {
    turns(row, key).any(|turn| turn.get(field).is_some())
}
