//! The prompt side against transformers and Pillow (`tests/golden/prompt`, made by `tools/golden/prompt_*.py`), and against
//! bad input.

mod chat;
mod image;
mod positions;
mod processor;
mod tokenizer;

use std::path::PathBuf;

use serde_json::Value;
use thyme_engine::prompt::Processor;

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prompt")
}

fn golden(name: &str) -> Value {
    let text = std::fs::read(golden_folder().join(name)).expect("golden file");
    serde_json::from_slice(&text).expect("golden JSON")
}

fn processor() -> Processor {
    Processor::open(&golden_folder().join("checkpoint")).expect("golden checkpoint")
}

/// The values of a list of numbers, or of lists of numbers flattened.
fn numbers(value: &Value) -> Vec<u32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_u64().expect("a whole number") as u32],
    }
}
