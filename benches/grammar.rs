//! What a grammar costs: compiling it, which no step waits for, and the mask of each token, which the host makes while a device computes. The
//! answers are given, and walked token by token, so the time is the grammar's alone.
//!
//!     cargo bench --bench grammar                      the shipped tokenizer of 768 tokens
//!     cargo bench --bench grammar -- FOLDER            that of a checkpoint (tools/qwen_tokenizer.py makes one of 151,665)

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value, json};
use thyme_engine::engine::sampling::grammar::{Form, Grammars};
use thyme_engine::prompt::Tokenizer;

/// Properties of the large schema.
const PROPERTIES: usize = 1000;
/// Each answer is walked so often.
const WALKS: usize = 5;

/// A form, and an answer of that form.
fn cases() -> [(&'static str, Form, String); 5] {
    let crop = json!({"type": "object", "required": ["name", "arguments"], "additionalProperties": false, "properties": {
        "name": {"enum": ["crop", "zoom", "rotate"]},
        "arguments": {"type": "object", "additionalProperties": false, "required": ["box", "reason"], "properties": {
            "box": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 4, "maxItems": 4},
            "reason": {"type": "string"}}}}});
    let call = json!({"name": "crop", "arguments": {"box": [14, 200, 340, 512],
        "reason": "The sign at the left is too small to read, so I look at it closely before I answer the question."}});
    let names = || (0..PROPERTIES).map(|i| format!("property_{i}"));
    let properties: Map<String, Value> = names().map(|name| (name, json!({"type": "integer"}))).collect();
    let large = json!({"type": "object", "properties": properties, "additionalProperties": false,
        "required": names().collect::<Vec<_>>()});
    let answer: Map<String, Value> = names().zip(0..).map(|(name, i)| (name, json!(i))).collect();
    let words = "one morning a small green bird flew over the wall and sang ".repeat(10);
    [
        ("any JSON object", Form::JsonSchema(json!({"type": "object"})), call.to_string()),
        ("a tool's call", Form::JsonSchema(crop), call.to_string()),
        ("1,000 properties", Form::JsonSchema(large), Value::Object(answer).to_string()),
        ("words by a regular expression", Form::Regex("([a-z]+ )+".into()), words),
        ("a sum in Lark", Form::Lark("start: /[0-9]+/ (\"+\" /[0-9]+/)*".into()), "12+345+6+7890+".repeat(10) + "1"),
    ]
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.map_or_else(|| PathBuf::from("recipes/tiny"), PathBuf::from);
    let tokenizer = Tokenizer::open(&folder).expect("a tokenizer");
    let end = tokenizer.required_token_id("<|im_end|>").expect("a token that ends a turn");
    let began = Instant::now();
    let grammars = Grammars::new(&tokenizer, tokenizer.len(), &[end]).expect("a vocabulary");
    println!("{} tokens, made ready in {:.2} s", tokenizer.len(), began.elapsed().as_secs_f64());
    println!(
        "{:<32}{:>14}{:>9}{:>16}{:>13}{:>13}",
        "form", "compiled, ms", "tokens", "mask, mean us", "99 %, us", "most, us"
    );
    for (name, form, answer) in cases() {
        let began = Instant::now();
        let compiled = grammars.compile(&form).expect("a grammar");
        let compiling = began.elapsed().as_secs_f64();
        let ids = tokenizer.encode(&answer).expect("an answer");
        let mut masks = Vec::new();
        for _ in 0..WALKS {
            let mut grammar = compiled.clone();
            for &id in &ids {
                let began = Instant::now();
                let mask = grammar.mask();
                masks.push(1e6 * began.elapsed().as_secs_f64());
                assert!(mask[id as usize / 32] >> (id % 32) & 1 == 1, "{name} does not allow token {id} of its answer");
                grammar.accept(id);
            }
        }
        masks.sort_by(f64::total_cmp);
        println!(
            "{name:<32}{:>14.1}{:>9}{:>16.1}{:>13.1}{:>13.1}",
            1e3 * compiling,
            ids.len(),
            masks.iter().sum::<f64>() / masks.len() as f64,
            masks[masks.len() * 99 / 100],
            masks[masks.len() - 1],
        );
    }
}
