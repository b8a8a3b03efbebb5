//! What a `tokenizer.json` may ask for, checked before anything is made of it: ids that would be places of a huge table, parts within parts,
//! patterns.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::hub::keys::shown;

/// Ids may leave gaps: they go up to so many times the number of tokens, and so many more. A place in a table takes some 50 bytes.
const IDS_PER_TOKEN: u64 = 4;
const IDS_MORE: u64 = 1 << 18;
/// Parts within parts at most; those of released tokenizers are in one sequence.
const NESTED_PARTS_MAX: usize = 4;
/// Parts at most.
const PARTS_MAX: usize = 64;
/// A letter of a text may become so many bytes.
const GROWTH_MAX: usize = 256;
/// Bytes of a pattern at most, and groups within groups; that of Qwen has 150 bytes and one.
const PATTERN_BYTES_MAX: usize = 8 << 10;
const NESTED_GROUPS_MAX: usize = 50;
/// Where the parts stand.
const PLACES: [&str; 4] = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
/// Bytes of a token's text at most.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// Checks a whole file.
///
/// # Errors
/// What is wrong, and the remedy.
pub(super) fn check(tokenizer: &Value) -> Result<(), String> {
    check_tokens(tokenizer)?;
    PLACES.into_iter().try_for_each(|place| check_parts(place, &tokenizer[place]))
}

/// Ids and texts of the vocabulary and of the added tokens.
fn check_tokens(tokenizer: &Value) -> Result<(), String> {
    let kind = &tokenizer["model"]["type"];
    if !kind.is_null() && kind != "BPE" {
        return Err(format!("model.type is {}; only \"BPE\" is supported", shown(kind)));
    }
    // What is of another type is refused where it is read.
    let Some(vocabulary) = tokenizer["model"]["vocab"].as_object() else { return Ok(()) };
    let added = tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let max = IDS_PER_TOKEN * (vocabulary.len() + added.len()) as u64 + IDS_MORE;
    let mut tokens = BTreeMap::new();
    for (token, id) in vocabulary {
        let id = check_id("model.vocab", token, id, max)?;
        if let Some(other) = tokens.insert(id, token.as_str()) {
            return Err(format!("model.vocab gives {other:?} and {token:?} the same id {id}; give each its own"));
        }
    }
    for entry in added {
        let text = entry["content"].as_str();
        let text = text.ok_or_else(|| format!("added_tokens has {}; each needs `content`", shown(entry)))?;
        let id = check_id("added_tokens", text, &entry["id"], max)?;
        if let Some(other) = tokens.insert(id, text).filter(|other| *other != text) {
            return Err(format!("added_tokens gives {text:?} the id {id}, which {other:?} has; give each its own"));
        }
    }
    Ok(())
}

fn check_id(place: &str, token: &str, id: &Value, max: u64) -> Result<u64, String> {
    let shown_token = shown(&Value::from(token));
    if token.len() > TOKEN_BYTES_MAX {
        return Err(format!("{place} has a token of {} bytes; at most {TOKEN_BYTES_MAX} are taken", token.len()));
    }
    let number = id.as_u64().ok_or_else(|| {
        format!("{place} gives {shown_token} the id {}; an id is a whole number from 0 on", shown(id))
    })?;
    if number < max {
        return Ok(number);
    }
    Err(format!(
        "{place} gives {shown_token} the id {number}; with so many tokens ids must be below {max}, so number them from 0 on"
    ))
}

/// Parts, parts of sequences among them, and their patterns.
fn check_parts(place: &str, part: &Value) -> Result<(), String> {
    let (mut open, mut parts, mut growth) = (vec![(part, 0)], 0, 1usize);
    while let Some((part, depth)) = open.pop() {
        parts += 1;
        if depth > NESTED_PARTS_MAX || parts > PARTS_MAX {
            return Err(format!(
                "{place} has more than {PARTS_MAX} parts, or more than {NESTED_PARTS_MAX} within each other; put them in one sequence"
            ));
        }
        if part["type"] == "Precompiled" {
            return Err(format!("{place} has a part of type \"Precompiled\", which no byte-level BPE has; remove it"));
        }
        let written = [&part["content"], &part["prepend"]].into_iter().filter_map(Value::as_str).map(str::len);
        growth = written.fold(growth, |growth, bytes| growth.saturating_mul(bytes.max(1)));
        if growth > GROWTH_MAX {
            return Err(format!("{place} makes a text more than {GROWTH_MAX} times longer; insert shorter texts"));
        }
        for pattern in [&part["pattern"]["Regex"], &part["pattern"]["String"], &part["pattern"], &part["content"]] {
            check_pattern(place, pattern.as_str().unwrap_or_default())?;
        }
        for key in ["normalizers", "pretokenizers", "processors", "decoders"] {
            open.extend(part[key].as_array().into_iter().flatten().map(|inner| (inner, depth + 1)));
        }
    }
    Ok(())
}

fn check_pattern(place: &str, pattern: &str) -> Result<(), String> {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in pattern.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if pattern.len() > PATTERN_BYTES_MAX || deepest > NESTED_GROUPS_MAX {
        return Err(format!(
            "{place} has a pattern of {} bytes with {deepest} groups within each other; at most {PATTERN_BYTES_MAX} and {NESTED_GROUPS_MAX} are taken",
            pattern.len()
        ));
    }
    Ok(())
}
