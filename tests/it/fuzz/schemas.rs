//! JSON schemas: those of the corpus changed, and new ones, in each field that takes one.

use serde_json::{Map, Value, json};

use super::mutate::{self, Corpus, scalar};
use super::wire::{Request, post};
use crate::support::small_policy::Random;

/// Numbers for bounds; most fit.
const BOUNDS: [i64; 10] = [0, 1, 2, 3, 10, 100, -1, 100_000, i64::MAX, i64::MIN];
const FORMATS: [&str; 10] =
    ["date-time", "date", "time", "email", "uri", "uuid", "ipv4", "hostname", "binary", "of-nobody"];
const PATTERNS: [&str; 8] = ["^a+$", "[0-9]{3}", "^(?=a)b", "(a*)*", "\\d{1,1000}", "^\\p{L}+$", "[", ""];

/// A request with a schema.
pub fn make(random: &mut Random, corpus: &Corpus) -> Request {
    let mut schema = match random.below(5) {
        0 => corpus.json(random, ".json"),
        1 => deep(random),
        _ => whole(random),
    };
    if random.one_in(3) {
        let other = corpus.json(random, ".json");
        mutate::json(random, &mut schema, &other, 4);
    }
    let mut body = json!({"messages": crate::support::server::says("Which plate?"), "max_tokens": 1 + random.below(4), "seed": random.below(100)});
    match random.below(6) {
        0 => {
            body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "plate", "schema": schema}})
        }
        1 => body["structured_outputs"] = json!({"json": schema, "disable_any_whitespace": random.one_in(2)}),
        2 => body["structured_outputs"] = json!({"json": schema.to_string()}),
        3 => body["guided_json"] = schema,
        4 => {
            body["tools"] = json!([{"type": "function", "function": {"name": "crop", "description": "Crops.", "parameters": schema}}]);
            body["tool_choice"] = "required".into();
        }
        _ => {
            let function = |(name, parameters): (&str, Value)| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
            body["tools"] = [("crop", schema), ("turn", whole(random))].map(function).to_vec().into();
            body["tool_choice"] = json!({"type": "function", "function": {"name": "crop"}});
        }
    }
    if body.get("tools").is_some() {
        // The checkpoint's own template does not show tools.
        body["chat_template"] =
            "{{ tools | tojson }}{% for message in messages %}{{ message.content }}{% endfor %}".into();
    }
    post("/v1/chat/completions", body.to_string().as_bytes())
}

/// A schema with definitions that refer to each other.
fn whole(random: &mut Random) -> Value {
    let mut schema = node(random, 3);
    let definitions: Map<String, Value> = (0..3).map(|number| (format!("d{number}"), node(random, 2))).collect();
    if let Value::Object(fields) = &mut schema {
        fields.insert("$defs".to_owned(), definitions.into());
    }
    schema
}

fn node(random: &mut Random, depth: usize) -> Value {
    let bound = |random: &mut Random| if random.one_in(8) { random.pick(&BOUNDS) } else { random.below(4) as i64 };
    if depth == 0 {
        return random.pick(&[
            json!({"type": "integer"}),
            json!({"type": "string"}),
            json!({"type": "boolean"}),
            json!({"enum": ["a", 1, null]}),
        ]);
    }
    let mut schema = Map::new();
    let mut maybe = |random: &mut Random, key: &str, value: Value| {
        if random.one_in(3) {
            schema.insert(key.to_owned(), value);
        }
    };
    let kind = match random.below(12) {
        0..4 => {
            let names = ["side", "times", "größe", ""];
            let properties: Map<String, Value> =
                (0..random.below(4)).map(|i| (names[i].to_owned(), node(random, depth - 1))).collect();
            let required: Vec<&str> = names.iter().copied().filter(|_| random.one_in(3)).collect();
            let least = bound(random);
            for (key, value) in [
                ("required", json!(required)),
                ("additionalProperties", random.pick(&[json!(false), json!(true), json!({"type": "integer"})])),
                ("patternProperties", json!({random.pick(&PATTERNS): {"type": "string"}})),
                ("minProperties", least.into()),
                ("propertyNames", json!({"pattern": random.pick(&PATTERNS)})),
            ] {
                maybe(random, key, value);
            }
            schema.insert("properties".to_owned(), properties.into());
            "object"
        }
        4 | 5 => {
            let (least, most, first) = (bound(random), bound(random), node(random, depth - 1));
            for (key, value) in [
                ("minItems", least.into()),
                ("maxItems", (least.saturating_add(most)).into()),
                ("prefixItems", json!([first])),
                ("uniqueItems", true.into()),
            ] {
                maybe(random, key, value);
            }
            schema.insert("items".to_owned(), node(random, depth - 1));
            "array"
        }
        6 => {
            let (least, most) = (bound(random), bound(random));
            for (key, value) in [
                ("minLength", least.into()),
                ("maxLength", least.saturating_add(most).into()),
                ("pattern", random.pick(&PATTERNS).into()),
                ("format", random.pick(&FORMATS).into()),
            ] {
                maybe(random, key, value);
            }
            "string"
        }
        7 | 8 => {
            let (least, most) = (bound(random), bound(random));
            for (key, value) in [
                ("minimum", least.into()),
                ("maximum", least.saturating_add(most).into()),
                ("exclusiveMinimum", json!(0.5)),
                ("multipleOf", random.pick(&[json!(1), json!(0.1), json!(1e-300), json!(0)])),
            ] {
                maybe(random, key, value);
            }
            random.pick(&["integer", "number"])
        }
        9 => {
            let key = random.pick(&["anyOf", "oneOf", "allOf"]);
            let ways: Vec<Value> = (0..1 + random.below(3)).map(|_| node(random, depth - 1)).collect();
            return json!({key: ways});
        }
        10 => return json!({"$ref": format!("#/$defs/d{}", random.below(3))}),
        _ => {
            return json!({random.pick(&["const", "default", "not"]): scalar(random), "description": mutate::words(random)});
        }
    };
    schema.insert("type".to_owned(), kind.into());
    schema.into()
}

/// What is deep or long in one way.
fn deep(random: &mut Random) -> Value {
    let count = random.pick(&[3, 20, 100, 400, 1500]);
    let link = |key: &str, last: usize| -> Value {
        let definition = |i: usize| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            (
                format!("d{i}"),
                if key.is_empty() {
                    next
                } else if key == "twice" {
                    json!({"allOf": [next, next]})
                } else {
                    json!({key: [next]})
                },
            )
        };
        let mut definitions: Map<String, Value> = (0..last).map(definition).collect();
        definitions.insert(format!("d{last}"), json!({"type": "integer"}));
        json!({"$ref": "#/$defs/d0", "$defs": definitions})
    };
    let nested = |wrap: &dyn Fn(Value) -> Value, depth: usize| {
        (0..depth).fold(json!({"type": "integer"}), |inner, _| wrap(inner))
    };
    match random.below(10) {
        0 => link("", count),
        1 => link("allOf", count),
        2 => link("anyOf", count),
        3 => link("twice", count.min(40)),
        4 => nested(&|inner| json!({"type": "array", "items": inner}), count.min(110)),
        5 => nested(&|inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}), count.min(60)),
        6 => nested(&|inner| json!({"allOf": [inner]}), count.min(60)),
        7 => json!({"enum": (0..count).collect::<Vec<_>>()}),
        8 => {
            json!({"type": "object", "properties": (0..count.min(500)).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect::<Map<_, _>>()})
        }
        _ => {
            json!({"type": "array", "minItems": count, "maxItems": count * count, "items": {"type": "string", "maxLength": count}})
        }
    }
}
