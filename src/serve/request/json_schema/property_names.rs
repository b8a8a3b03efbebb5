//! What a schema asks of the names of an object's fields: `patternProperties` and `propertyNames`.

use serde_json::{Map, Value, json};

use super::budget::Budget;
use super::patterns::single_pattern;
use super::strings::uuid;
use crate::files::json::shorten;
use crate::serve::request::fields::whole_value;

/// References from one name to the next at most.
const HOPS_MAX: usize = 16;
/// Days of each month.
const DATE: &str = r"^[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))$";

/// Says by patterns without look-around which names fit a schema.
pub(super) fn rewrite_pattern_properties(fields: &mut Map<String, Value>, budget: &mut Budget) -> Result<(), String> {
    let Some(Value::Object(named)) = fields.get_mut("patternProperties") else { return Ok(()) };
    let mut rewritten = Map::new();
    for (pattern, schema) in std::mem::take(named) {
        let single = single_pattern(&pattern)?;
        budget.write(single.len().saturating_sub(pattern.len()))?;
        rewritten.insert(single, schema);
    }
    *named = rewritten;
    // Names that fit no pattern are no more than allowed, and whoever gives patterns alone does not read them.
    if !fields.contains_key("properties") {
        fields.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Ok(())
}

/// Says by `properties` or `patternProperties` what `propertyNames` says.
pub(super) fn rewrite_property_names(
    fields: &mut Map<String, Value>,
    root: &Value,
    budget: &mut Budget,
) -> Result<(), String> {
    let Some(names) = fields.shift_remove("propertyNames") else { return Ok(()) };
    if fields.contains_key("patternProperties") {
        return Err("propertyNames beside patternProperties is not supported; leave one of them out".to_owned());
    }
    let Some(names) = Names::read(&names, root, HOPS_MAX, budget)? else { return Ok(()) };
    let others = fields.insert("additionalProperties".to_owned(), false.into()).unwrap_or(Value::Bool(true));
    match names {
        Names::Listed(names) if !fields.contains_key("minProperties") => {
            let Value::Object(properties) = fields.entry("properties").or_insert_with(|| json!({})) else {
                return Err("properties must be an object".to_owned());
            };
            let bytes = others.to_string().len();
            for name in names {
                budget.write(name.len() + bytes)?;
                properties.entry(name).or_insert_with(|| others.clone());
            }
        }
        names => {
            fields.insert("patternProperties".to_owned(), json!({names.pattern(): others}));
        }
    }
    Ok(())
}

/// Names that an object's fields may have.
enum Names {
    Listed(Vec<String>),
    Matching(String),
}

impl Names {
    /// Those that a schema of names allows; none if it allows all.
    fn read(schema: &Value, root: &Value, hops: usize, budget: &mut Budget) -> Result<Option<Names>, String> {
        budget.read()?;
        let unsupported = || {
            let schema = shorten(&schema.to_string());
            format!(
                "propertyNames {schema} is not supported; give one of enum, const, pattern, format, or minLength and maxLength"
            )
        };
        let fields = match schema {
            Value::Bool(true) => return Ok(None),
            Value::Object(fields) => fields,
            _ => return Err(unsupported()),
        };
        let describes = ["type", "title", "description", "default", "examples"];
        let asks: Vec<(&str, &Value)> = fields
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .filter(|(key, _)| !describes.contains(key))
            .collect();
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(unsupported);
        match asks.as_slice() {
            [] => Ok(None),
            [("$ref", target)] => {
                let place = target.as_str().and_then(|target| target.strip_prefix('#')).ok_or_else(unsupported)?;
                budget.write(place.len())?;
                let target = root.pointer(place).filter(|_| hops > 0).ok_or_else(unsupported)?;
                Names::read(target, root, hops - 1, budget)
            }
            [("const", name)] => {
                budget.write(name.as_str().map_or(0, str::len))?;
                Ok(Some(Names::Listed(vec![text(name)?])))
            }
            [("enum", Value::Array(names))] => {
                budget.write(names.iter().map(|name| 1 + name.as_str().map_or(0, str::len)).sum())?;
                Ok(Some(Names::Listed(names.iter().map(text).collect::<Result<_, _>>()?)))
            }
            [("pattern", pattern)] => {
                let pattern = single_pattern(&text(pattern)?)?;
                budget.write(pattern.len())?;
                Ok(Some(Names::Matching(pattern)))
            }
            [("format", format)] => Ok(match format.as_str() {
                Some("uuid") => Some(Names::Matching(uuid("[0-9a-fA-F]"))),
                Some("date") => Some(Names::Matching(DATE.to_owned())),
                Some(format) => format.strip_prefix("uuid").map(|version| Names::Matching(uuid(version))),
                None => return Err(unsupported()),
            }),
            [("anyOf" | "oneOf", Value::Array(choices))] if hops > 0 => {
                let choices = choices.iter().map(|choice| Names::read(choice, root, hops - 1, budget));
                let choices: Option<Vec<Names>> = choices.collect::<Result<Option<_>, _>>()?;
                let pattern = |names: Names| format!("(?:{})", names.pattern());
                let joined = |all: Vec<Names>| all.into_iter().map(pattern).collect::<Vec<_>>().join("|");
                let joined = choices.map(joined);
                budget.write(joined.as_ref().map_or(0, String::len))?;
                Ok(joined.map(Names::Matching))
            }
            lengths if lengths.iter().all(|(key, _)| ["minLength", "maxLength"].contains(key)) => {
                let length = |key: &str| {
                    fields.get(key).map_or(Ok(String::new()), |value| {
                        whole_value(value).map(|length| length.to_string()).ok_or_else(unsupported)
                    })
                };
                let (least, most) = (length("minLength")?, length("maxLength")?);
                let least = if least.is_empty() { "0".to_owned() } else { least };
                Ok(Some(Names::Matching(format!("^.{{{least},{most}}}$"))))
            }
            _ => Err(unsupported()),
        }
    }

    fn pattern(self) -> String {
        match self {
            Names::Matching(pattern) => pattern,
            Names::Listed(names) => {
                format!("^(?:{})$", names.iter().map(|name| regex::escape(name)).collect::<Vec<_>>().join("|"))
            }
        }
    }
}
