//! JSON schemas as clients write them, above all as pydantic makes them, in the words that llguidance knows. What a grammar cannot hold an
//! answer to is dropped where it only describes (`discriminator`, an unknown `format`) or where any reader takes an answer without it
//! (`uniqueItems`); what would change the meaning is refused.

mod budget;
mod patterns;
mod property_names;
mod strings;

use serde_json::{Map, Value, json};

use super::fields::make_whole;
use crate::files::json::shorten;
use property_names::{rewrite_pattern_properties, rewrite_property_names};
use strings::{rewrite_format, rewrite_pattern};

pub use budget::Budget;

/// Between two tokens of JSON: enough for a line that is indented, and no endless run.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Farther from 0 no range of numbers begins.
const BOUND_MAX: f64 = 1e15;
/// Keywords that describe.
const ANNOTATIONS: [&str; 7] =
    ["discriminator", "deprecated", "contentSchema", "contentMediaType", "contentEncoding", "example", "uniqueItems"];
/// Keywords whose value is a schema, or a list of schemas.
const SCHEMAS: [&str; 15] = [
    "items",
    "prefixItems",
    "additionalItems",
    "additionalProperties",
    "propertyNames",
    "anyOf",
    "allOf",
    "oneOf",
    "not",
    "contains",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value has schemas by name.
const NAMED_SCHEMAS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose value is a whole number.
const COUNTS: [&str; 8] =
    ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"];
/// Options of llguidance that a schema may bring under `x-guidance`, and whether each is a text.
const OPTIONS: [(&str, bool); 6] = [
    ("whitespace_flexible", false),
    ("whitespace_pattern", true),
    ("item_separator", true),
    ("key_separator", true),
    ("coerce_one_of", false),
    ("lenient", false),
];

/// A schema as llguidance takes it.
///
/// # Errors
/// What cannot be kept, with a remedy.
pub fn prepare(mut schema: Value, budget: &mut Budget) -> Result<Value, String> {
    if schema == true {
        schema = json!({});
    }
    let root = schema.clone();
    rewrite(&mut schema, &root, budget)?;
    if let Value::Object(fields) = &mut schema {
        let options = fields.entry("x-guidance").or_insert_with(|| json!({}));
        let options = options.as_object_mut().ok_or("x-guidance must be an object")?;
        for (key, value) in options.iter() {
            match OPTIONS.iter().find(|(known, _)| known == key) {
                Some((_, true)) if value.is_string() => {}
                Some((_, false)) if value.is_boolean() => {}
                Some((_, is_text)) => {
                    return Err(format!(
                        "x-guidance.{key} must be {}",
                        if *is_text { "a string" } else { "true or false" }
                    ));
                }
                None => return Err(format!("x-guidance has {:?}, which is not known; leave it out", shorten(key))),
            }
        }
        if options.get("whitespace_flexible") != Some(&Value::Bool(false)) {
            options.entry("whitespace_pattern").or_insert_with(|| WHITE_SPACE.into());
        }
    }
    Ok(schema)
}

fn rewrite(schema: &mut Value, root: &Value, budget: &mut Budget) -> Result<(), String> {
    let Value::Object(fields) = schema else { return Ok(()) };
    for key in SCHEMAS {
        match fields.get_mut(key) {
            Some(Value::Array(list)) => list.iter_mut().try_for_each(|schema| rewrite(schema, root, budget))?,
            Some(schema) if key != "propertyNames" => rewrite(schema, root, budget)?,
            _ => {}
        }
    }
    for key in NAMED_SCHEMAS {
        let Some(Value::Object(named)) = fields.get_mut(key) else { continue };
        named.values_mut().try_for_each(|schema| rewrite(schema, root, budget))?;
    }
    for key in COUNTS {
        fields.get_mut(key).into_iter().for_each(make_whole);
    }
    if fields.contains_key("discriminator")
        && let Some(choices) = fields.remove("oneOf")
    {
        // Its property tells the choices apart.
        fields.insert("anyOf".to_owned(), choices);
    }
    ANNOTATIONS.iter().for_each(|key| drop(fields.shift_remove(*key)));
    check_bounds(fields)?;
    rewrite_format(fields);
    rewrite_pattern(fields, budget)?;
    rewrite_pattern_properties(fields, budget)?;
    rewrite_property_names(fields, root, budget)
}

/// Refuses a range of numbers that are all farther from 0 than a grammar counts.
fn check_bounds(fields: &Map<String, Value>) -> Result<(), String> {
    let lower = ["minimum", "exclusiveMinimum"].map(|key| (key, 1.0));
    let upper = ["maximum", "exclusiveMaximum"].map(|key| (key, -1.0));
    for (key, sign) in lower.into_iter().chain(upper) {
        let Some(bound) = fields.get(key).and_then(Value::as_f64) else { continue };
        if sign * bound >= BOUND_MAX {
            let end = if sign > 0.0 { "less than 1e15" } else { "more than -1e15" };
            return Err(format!("`{key}` is {bound:e}, and must be {end}; leave it out and check the answer"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_is_named() {
        let wrong = json!({"propertyNames": {"not": {}}});
        assert!(prepare(wrong, &mut Budget::default()).unwrap_err().contains("propertyNames"));
        let wrong = json!({"x-guidance": {"lenient": 1}});
        assert!(prepare(wrong, &mut Budget::default()).unwrap_err().contains("true or false"));
    }

    /// Within the bytes of a request, such schemas would be read or copied without end.
    #[test]
    fn what_grows_without_bound_is_refused_at_once() {
        let expect = |schema: Value, reason: &str| {
            assert!(schema.to_string().len() < 32 << 10);
            let (began, sent) = (std::time::Instant::now(), shorten(&schema.to_string()));
            let error = prepare(schema, &mut Budget::default()).unwrap_err();
            assert!(error.contains(reason), "{sent}: {error}");
            assert!(began.elapsed().as_secs_f64() < 1.0, "{sent}: {:?}", began.elapsed());
        };
        let choices = |next: usize| json!({"anyOf": vec![json!({"$ref": format!("#/$defs/{next}")}); 100]});
        let mut definitions: Map<String, Value> = (0..6).map(|at| (at.to_string(), choices(at + 1))).collect();
        definitions.insert("6".to_owned(), json!({"pattern": "^a$"}));
        expect(json!({"propertyNames": {"$ref": "#/$defs/0"}, "$defs": definitions}), "propertyNames lead to more");
        let names: Vec<String> = (0..1000).map(|name| format!("a{name}")).collect();
        let within = |inner: Value| json!({"propertyNames": {"enum": names}, "additionalProperties": inner});
        expect(within(within(within(json!({"type": "integer"})))), "grows by more");
        let long = json!({"enum": vec!["a".repeat(100); 200]});
        let often = json!({"anyOf": vec![json!({"$ref": "#/$defs/long"}); 300]});
        expect(json!({"propertyNames": often, "$defs": {"long": long}}), "grows by more");
        expect(json!({"pattern": format!("^(?!{})x$", "a".repeat(20_000))}), "write it without");
        let fits = prepare(within(json!({"type": "integer"})), &mut Budget::default()).unwrap();
        assert_eq!(fits["properties"].as_object().unwrap().len(), 1000);
    }
}
