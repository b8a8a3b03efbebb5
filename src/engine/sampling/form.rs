//! What an answer must look like, and how large a form may be: what it is made of is bounded before anything recursive looks at it.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Values within values of a schema at most.
const NESTED_VALUES_MAX: usize = 100;
/// Different targets of `$ref` at most: as many may follow each other.
const REFERENCES_MAX: usize = 1000;
/// Groups within groups of a regular expression at most; the library takes 250, other nested things among them.
const NESTED_GROUPS_MAX: usize = 200;
/// Rules and terminals of a grammar at most: as many may follow each other.
const RULES_MAX: usize = 2000;

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// JSON that fits a JSON schema.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// Text of a grammar in Lark's notation, as llguidance reads it.
    Lark(String),
}

impl Form {
    /// Checks the sizes of a form.
    ///
    /// # Errors
    /// The first that is too large, and the remedy.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Form::JsonSchema(schema) => check_schema(schema),
            Form::Regex(regex) => check_regex(regex),
            Form::Lark(lark) => check_lark(lark),
        }
    }
}

impl Display for Form {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Form::JsonSchema(schema) => write!(formatter, "json {schema}"),
            Form::Regex(regex) => write!(formatter, "regex {regex}"),
            Form::Lark(lark) => write!(formatter, "lark {lark}"),
        }
    }
}

fn check_schema(schema: &Value) -> Result<(), String> {
    let (mut open, mut targets) = (vec![(schema, 0)], BTreeSet::new());
    while let Some((value, depth)) = open.pop() {
        if depth > NESTED_VALUES_MAX {
            return Err(format!(
                "the schema is nested deeper than {NESTED_VALUES_MAX} values; name inner schemas in `$defs` and refer to them by `$ref`"
            ));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                targets.extend(fields.get("$ref").and_then(Value::as_str));
                open.extend(fields.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
    }
    match targets.len() {
        ..=REFERENCES_MAX => Ok(()),
        count => Err(format!("the schema has {count} different `$ref`; at most {REFERENCES_MAX} are taken")),
    }
}

fn check_regex(regex: &str) -> Result<(), String> {
    let (mut depth, mut deepest, mut is_escaped, mut in_class) = (0usize, 0, false, false);
    for letter in regex.chars() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > NESTED_GROUPS_MAX {
        return Err(format!(
            "the regular expression has {deepest} groups within each other; at most {NESTED_GROUPS_MAX} are taken"
        ));
    }
    Ok(())
}

fn check_lark(lark: &str) -> Result<(), String> {
    let begins_rule = |line: &&str| line.starts_with(|letter: char| letter.is_alphanumeric() || "_!?".contains(letter));
    match lark.lines().filter(begins_rule).count() {
        ..=RULES_MAX => Ok(()),
        count => Err(format!("the grammar has {count} rules; at most {RULES_MAX} are taken")),
    }
}
