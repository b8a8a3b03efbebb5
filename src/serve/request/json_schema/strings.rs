//! What a schema asks of strings, `format` and `pattern`, in the words of grammars.

use serde_json::{Map, Value, json};

use super::budget::Budget;
use super::patterns::without_look_around;

/// Formats that llguidance knows.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Names formats in other words, and drops what is not known: an annotation, as the specification has it.
pub(super) fn rewrite_format(fields: &mut Map<String, Value>) {
    let Some(format) = fields.get("format").and_then(Value::as_str) else {
        fields.shift_remove("format");
        return;
    };
    if FORMATS.contains(&format) {
        return;
    }
    let asked = match format.strip_prefix("uuid") {
        Some(version @ ("1" | "3" | "4" | "5" | "6" | "7" | "8")) => Some(json!({"pattern": uuid(version)})),
        _ if format == "ipvanyaddress" => Some(json!({"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})),
        _ => None,
    };
    fields.shift_remove("format");
    asked.into_iter().for_each(|asked| also(fields, asked));
}

/// A pattern for the UUIDs of a version, which is a digit or a class of digits.
pub(super) fn uuid(version: &str) -> String {
    let hex = "[0-9a-fA-F]";
    format!("^{hex}{{8}}-{hex}{{4}}-{version}{hex}{{3}}-[89abAB]{hex}{{3}}-{hex}{{12}}$")
}

/// Asks one thing more of a string.
fn also(fields: &mut Map<String, Value>, mut asked: Value) {
    if fields.get("type").is_some_and(|kind| kind == "string")
        && let Value::Object(asked) = &mut asked
    {
        asked.insert("type".to_owned(), "string".into());
    }
    if let Value::Array(all) = fields.entry("allOf").or_insert_with(|| json!([])) {
        all.push(asked);
    }
}

/// Says by patterns without look-around what `pattern` says.
pub(super) fn rewrite_pattern(fields: &mut Map<String, Value>, budget: &mut Budget) -> Result<(), String> {
    let Some(pattern) = fields.get("pattern").and_then(Value::as_str) else { return Ok(()) };
    let patterns = without_look_around(pattern)?;
    budget.write(patterns.iter().map(String::len).sum::<usize>().saturating_sub(pattern.len()))?;
    let mut patterns = patterns.into_iter();
    fields["pattern"] = patterns.next().unwrap_or_default().into();
    patterns.for_each(|pattern| also(fields, json!({"pattern": pattern})));
    Ok(())
}
