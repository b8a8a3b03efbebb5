//! JSON schemas as clients write them, above all as pydantic makes them, in the words that llguidance knows. What a grammar cannot hold an
//! answer to is dropped where it only describes (`discriminator`, an unknown `format`) or where any reader takes an answer without it
//! (`uniqueItems`); what would change the meaning is refused.

use serde_json::{Map, Value, json};

use super::fields::make_whole;
use crate::files::json::shorten;

/// Between two tokens of JSON: enough for a line that is indented, and no endless run.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Formats that llguidance knows.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
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
/// How every pattern begins that pydantic makes for a `Decimal`: at least one digit.
const DECIMAL_START: &str = r"^(?!^[-+.]*$)[+-]?0*";
/// References from one name to the next at most.
const HOPS_MAX: usize = 16;
/// Schemas of names that are read for the schemas of a request at most: a reference may lead to many of them, and each to many more.
const NAMES_READ_MAX: usize = 4096;
/// Bytes that rewriting adds to the schemas of a request at most.
const WRITTEN_BYTES_MAX: usize = 1 << 20;
/// Letters at most of a word that a text must not begin with: a pattern without the look-ahead repeats it for each.
const WORD_LETTERS_MAX: usize = 64;
/// Days of each month.
const DATE: &str = r"^[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))$";

/// What rewriting the schemas of a request may still take.
#[derive(Debug)]
pub struct Budget {
    reads: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { reads: NAMES_READ_MAX, bytes: WRITTEN_BYTES_MAX }
    }
}

impl Budget {
    /// One more schema of names is read.
    fn read(&mut self) -> Result<(), String> {
        self.reads = self.reads.checked_sub(1).ok_or_else(|| {
            format!(
                "its propertyNames lead to more than {NAMES_READ_MAX} schemas; give the names in one enum or pattern"
            )
        })?;
        Ok(())
    }

    /// So many bytes more are written.
    fn write(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| {
            format!(
                "written out for a grammar it grows by more than {WRITTEN_BYTES_MAX} bytes; give fewer names in propertyNames or fewer \
                 patterns"
            )
        })?;
        Ok(())
    }
}

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

/// Names formats in other words, and drops what is not known: an annotation, as the specification has it.
fn rewrite_format(fields: &mut Map<String, Value>) {
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

fn uuid(version: &str) -> String {
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

fn rewrite_pattern(fields: &mut Map<String, Value>, budget: &mut Budget) -> Result<(), String> {
    let Some(pattern) = fields.get("pattern").and_then(Value::as_str) else { return Ok(()) };
    let patterns = without_look_around(pattern)?;
    budget.write(patterns.iter().map(String::len).sum::<usize>().saturating_sub(pattern.len()))?;
    let mut patterns = patterns.into_iter();
    fields["pattern"] = patterns.next().unwrap_or_default().into();
    patterns.for_each(|pattern| also(fields, json!({"pattern": pattern})));
    Ok(())
}

fn rewrite_pattern_properties(fields: &mut Map<String, Value>, budget: &mut Budget) -> Result<(), String> {
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
fn rewrite_property_names(fields: &mut Map<String, Value>, root: &Value, budget: &mut Budget) -> Result<(), String> {
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
                        super::fields::whole_value(value).map(|length| length.to_string()).ok_or_else(unsupported)
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

fn single_pattern(pattern: &str) -> Result<String, String> {
    match without_look_around(pattern)?.as_slice() {
        [single] => Ok(single.clone()),
        _ => Err(look_around(pattern)),
    }
}

fn look_around(pattern: &str) -> String {
    format!(
        "the pattern {:?} looks ahead or back, or refers back, which a grammar cannot; write it without (?=...), (?!...), (?<=...), (?<!...) \
         and \\1, or leave it out and check the answer",
        shorten(pattern)
    )
}

/// Patterns that a text fits together exactly if it fits one that may begin with look-aheads.
fn without_look_around(pattern: &str) -> Result<Vec<String>, String> {
    if !looks_around(pattern) {
        return Ok(vec![pattern.to_owned()]);
    }
    if let Some(rest) = pattern.strip_prefix(DECIMAL_START)
        && let Some(decimal) = decimal(rest)
    {
        return Ok(vec![decimal]);
    }
    let (mut patterns, mut rest) = (Vec::new(), pattern.strip_prefix('^').ok_or_else(|| look_around(pattern))?);
    while let Some((is_negative, ahead, behind)) = leading_look_ahead(rest) {
        let ahead = ahead.strip_prefix('^').unwrap_or(ahead);
        patterns.push(match is_negative {
            false => format!("^(?:{ahead})"),
            true => never_ahead(ahead).ok_or_else(|| look_around(pattern))?,
        });
        rest = behind;
    }
    patterns.insert(0, format!("^{rest}"));
    match patterns.iter().any(|pattern| looks_around(pattern)) || has_choice(rest) {
        true => Err(look_around(pattern)),
        false => Ok(patterns),
    }
}

/// What pydantic writes after the start of a decimal's pattern, as a pattern of its own: digits with or without a point, so many of them.
fn decimal(rest: &str) -> Option<String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number <= 64);
    if rest == r"\d*\.?\d*$" {
        return Some(r"^[+-]?(?:\d+\.?\d*|\.\d+)$".to_owned());
    }
    // Digits of a fraction: not none.
    let fraction = |most: usize| if most == 0 { "0+".to_owned() } else { format!(r"\d{{1,{most}}}0*") };
    if let Some(places) = rest.strip_prefix(r"\d*\.?\d{0,").and_then(|rest| rest.strip_suffix("}0*$")) {
        let places = number(places)?;
        return Some(format!(r"^[+-]?(?:\d+(?:\.\d{{0,{places}}}0*)?|\.{})$", fraction(places)));
    }
    // `(?:\d{0,I}|(?=[\d.]{1,M}0*$)\d{0,I}\.\d{0,P}0*$)`, or `\d*\.\d*0*$` at its end: at most M - 1 digits.
    let (whole, rest) = rest.strip_prefix(r"(?:\d{0,")?.split_once(r"}|(?=[\d.]{1,")?;
    let (digits, rest) = rest.split_once(r"}0*$)")?;
    let (whole, digits) = (number(whole)?, number(digits)?.checked_sub(1)?);
    let integer =
        |most: usize| if most == 0 { "0+".to_owned() } else { format!(r"(?:0+\d{{0,{most}}}|\d{{1,{most}}})") };
    if rest == r"\d*\.\d*0*$)" {
        let split = |before: usize| format!(r"{}\.\d{{0,{}}}0*", integer(before), digits - before);
        let splits: Vec<String> = (0..=digits).map(split).collect();
        return Some(format!(r"^[+-]?(?:{}|{}|\.{})$", integer(whole), splits.join("|"), fraction(digits)));
    }
    let places = rest.strip_prefix(&format!(r"\d{{0,{whole}}}\.\d{{0,"))?.strip_suffix("}0*$)")?;
    let places = number(places)?.min(digits);
    let integer = integer(whole);
    Some(format!(r"^[+-]?(?:{integer}(?:\.\d{{0,{places}}}0*)?|\.{})$", fraction(places)))
}

/// Whether a pattern has what no regular language has, or what takes an intersection.
fn looks_around(pattern: &str) -> bool {
    let (mut characters, mut in_class) = (pattern.char_indices(), false);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                let refers = |(_, next): (usize, char)| !in_class && (('1'..='9').contains(&next) || next == 'k');
                if characters.next().is_some_and(refers) {
                    return true;
                }
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class && ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|mark| pattern[at..].starts_with(mark)) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Whether a pattern is a choice at its top: then its beginning is that of the first only.
fn has_choice(pattern: &str) -> bool {
    let (mut depth, mut in_class, mut is_escaped) = (0, false, false);
    for character in pattern.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// The look-ahead that a pattern begins with: whether it is negative, what it looks for, and what follows it.
fn leading_look_ahead(pattern: &str) -> Option<(bool, &str, &str)> {
    let (is_negative, rest) = match pattern.strip_prefix("(?!") {
        Some(rest) => (true, rest),
        None => (false, pattern.strip_prefix("(?=")?),
    };
    let (mut depth, mut in_class, mut is_escaped) = (1, false, false);
    for (at, character) in rest.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return Some((is_negative, &rest[..at], &rest[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

/// A pattern for the texts that do not begin with `ahead`, where that is a class, `.*` and a class, or a word.
fn never_ahead(ahead: &str) -> Option<String> {
    if let Some(other) = ahead.strip_suffix("*$").and_then(other_class) {
        return Some(other);
    }
    if let Some(class) = ahead.strip_prefix(".*") {
        return Some(format!("^{}*$", other_class(class)?));
    }
    if let Some(other) = other_class(ahead) {
        return Some(format!("^(?:{other}|$)"));
    }
    let (word, is_whole) = ahead.strip_suffix('$').map_or((ahead, false), |word| (word, true));
    if !(1..=WORD_LETTERS_MAX).contains(&word.chars().count())
        || !word.chars().all(|c| c.is_alphanumeric() || " _-".contains(c))
    {
        return None;
    }
    let differs = |(at, character): (usize, char)| {
        let before = &word[..at];
        if is_whole { format!(r"{before}(?:[^{character}].*)?") } else { format!("{before}(?:$|[^{character}].*)") }
    };
    let mut texts: Vec<String> = word.char_indices().map(differs).collect();
    if is_whole {
        texts.push(format!("{word}.+"));
    }
    Some(format!("^(?:{})$", texts.join("|")))
}

/// The class of all other characters.
fn other_class(class: &str) -> Option<String> {
    match class {
        r"\d" => Some("[^0-9]".to_owned()),
        r"\s" => Some(r"[^ \t\r\n\x0B\x0C]".to_owned()),
        r"\w" => Some("[^a-zA-Z0-9_]".to_owned()),
        _ => {
            let inner = class.strip_prefix('[')?.strip_suffix(']')?;
            let is_one = !inner.is_empty() && !inner.contains(['[', ']']) && !inner.ends_with('\\');
            is_one.then(|| match inner.strip_prefix('^') {
                Some(other) => format!("[{other}]"),
                None => format!("[^{inner}]"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Each text fits all of a pattern's parts exactly if it fits the whole in the eyes of a reader that can look ahead.
    #[track_caller]
    fn expect_alike(pattern: &str, whole: &str, characters: &str, length: usize) {
        let parts = without_look_around(pattern).unwrap();
        let parts: Vec<Regex> = parts.iter().map(|part| Regex::new(part).unwrap()).collect();
        let whole = fancy_regex::Regex::new(whole).unwrap();
        for text in texts(characters, length) {
            let fits = parts.iter().all(|part| part.is_match(&text));
            assert_eq!(fits, whole.is_match(&text).unwrap(), "{pattern} {text:?}");
        }
    }

    /// All texts of up to `length` of some characters.
    fn texts(characters: &str, length: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..length {
            let longer: Vec<String> =
                texts[from..].iter().flat_map(|text| characters.chars().map(move |c| format!("{text}{c}"))).collect();
            from = texts.len();
            texts.extend(longer);
        }
        texts
    }

    #[test]
    fn look_aheads_are_taken_where_their_meaning_can_be_kept() {
        for (pattern, characters, length) in [
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", "01+-.", 6),
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,2}0*$", "01+-.", 6),
            (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d{0,0}0*$", "01+-.", 6),
            (r"^(?=.*[A-Z])(?=.*\d).{3,4}$", "aB1", 5),
            (r"^(?!\d)\w+$", "a1_", 4),
            (r"^(?!ab)[abc]*$", "abc", 4),
            (r"^(?!ab$)[abc]*$", "abc", 4),
            (r"^(?!.*[x])[axy]{2,}$", "axy", 4),
            (r"^(?![^a])[ab]+$", "ab", 4),
        ] {
            expect_alike(pattern, pattern, characters, length);
        }
    }

    /// The first choice of these patterns has no end; only texts that are decimals as a whole are kept.
    #[test]
    fn decimals_of_so_many_digits_are_taken() {
        for pattern in [
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,1}|(?=[\d.]{1,4}0*$)\d{0,1}\.\d{0,2}0*$)",
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,0}|(?=[\d.]{1,3}0*$)\d{0,0}\.\d{0,3}0*$)",
            r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,2}|(?=[\d.]{1,3}0*$)\d*\.\d*0*$)",
        ] {
            expect_alike(pattern, &pattern.replacen('|', "$|", 1), "01+.", 7);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        for pattern in
            [r"a(?=b)", r"^a(?!b)$", r"(?<=a)b", r"(a)\1", r"^(?!(a|b)+c)x$", r"^(?!a)b|c$", r"(?P<x>a)\k<x>"]
        {
            let error = without_look_around(pattern).unwrap_err();
            assert!(error.contains("write it without"), "{pattern}: {error}");
        }
        for pattern in [r"\(?=a", r"[(?=]", r"\\d", r"^a|b$"] {
            assert_eq!(without_look_around(pattern).unwrap(), [pattern]);
        }
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
