//! A value with its unit, as answers write it: `5 cm`, `60 km/h`, `€5`, `5 million`, `five apples`, `about 50 percent`.

use super::math::{self, Value};

/// Words that leave the value as it is.
const ABOUT: [&str; 6] = ["approximately ", "about ", "around ", "roughly ", "exactly ", "≈"];
const CURRENCIES: [char; 4] = ['€', '£', '¥', '₹'];
const NUMBER_WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];
const SCALES: [(&str, f64); 6] =
    [("dozen", 12.0), ("hundred", 1e2), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12)];
/// Words after a number that make another value of it.
const CHANGING: [&str; 14] =
    ["or", "and", "to", "more", "less", "fewer", "than", "out", "not", "plus", "minus", "times", "half", "point"];
/// Symbols that may stand right behind a number, with their names. Other single letters there are variables.
const UNITS: [(&str, &str); 33] = [
    ("m", "meter"),
    ("cm", "centimeter"),
    ("mm", "millimeter"),
    ("km", "kilometer"),
    ("m", "metre"),
    ("cm", "centimetre"),
    ("mm", "millimetre"),
    ("km", "kilometre"),
    ("in", "inch"),
    ("in", "inche"),
    ("ft", "feet"),
    ("ft", "foot"),
    ("mi", "mile"),
    ("g", "gram"),
    ("kg", "kilogram"),
    ("mg", "milligram"),
    ("lb", "pound"),
    ("oz", "ounce"),
    ("s", "second"),
    ("s", "sec"),
    ("min", "minute"),
    ("h", "hour"),
    ("h", "hr"),
    ("ms", "millisecond"),
    ("l", "liter"),
    ("l", "litre"),
    ("ml", "milliliter"),
    ("n", "newton"),
    ("j", "joule"),
    ("w", "watt"),
    ("v", "volt"),
    ("c", "celsius"),
    ("f", "fahrenheit"),
];
const SYMBOLS: [&str; 10] = ["k", "hz", "px", "am", "pm", "kw", "pa", "mb", "gb", "mph"];
/// A unit of more words is a sentence.
const UNIT_WORDS_MAX: usize = 4;

/// A value and its unit, which may be empty.
pub(super) struct Quantity {
    value: Value,
    unit: String,
}

impl Quantity {
    /// Reads a quantity, or gives `None`.
    pub(super) fn read(text: &str) -> Option<Quantity> {
        let mut text = text.trim();
        for word in ABOUT {
            if text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word)) {
                text = text[word.len()..].trim_start();
            }
        }
        if let Some(rest) = text.strip_prefix(CURRENCIES) {
            let currency = text[..text.len() - rest.len()].to_owned();
            let quantity = Quantity::read(rest)?;
            return quantity.unit.is_empty().then_some(Quantity { unit: currency, ..quantity });
        }
        let text = math::plain(text).replace(" percent", "%").replace(" per cent", "%");
        if let Some(value) = math::parse(&text) {
            return Some(Quantity { value, unit: String::new() });
        }
        Quantity::with_unit(text.trim())
    }

    fn with_unit(text: &str) -> Option<Quantity> {
        let text = square_signs(text);
        let first = text.split_whitespace().next()?;
        let word = NUMBER_WORDS.iter().position(|word| first.eq_ignore_ascii_case(word));
        let (mut value, rest) = match word {
            Some(number) => (Value::Number { value: number as f64, percent: false }, &text[first.len()..]),
            None => {
                let end = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '}' | ')'))? + 1;
                (math::parse(&text[..end])?, &text[end..])
            }
        };
        let is_attached = !rest.starts_with(' ');
        let mut words: Vec<String> = rest.split_whitespace().map(str::to_lowercase).collect();
        let scale = words.first().and_then(|word| match word.as_str() {
            "k" if is_attached && rest.starts_with('k') => Some(1e3),
            word => SCALES.iter().find(|(name, _)| word == *name).map(|(_, scale)| *scale),
        });
        if let (Some(scale), Value::Number { value, .. }) = (scale, &mut value) {
            *value *= scale;
            words.remove(0);
        } else if !is_unit(&words, is_attached, &value) {
            return None;
        }
        let unit = words.iter().map(|word| symbol(word)).collect::<Vec<_>>().join(" ");
        Some(Quantity { value, unit })
    }

    /// Whether both are the same; a unit that only one of them names is forgiven, two must agree.
    pub(super) fn same(&self, other: &Quantity) -> bool {
        let units_agree = self.unit.is_empty() || other.unit.is_empty() || self.unit == other.unit;
        units_agree && self.value.same(&other.value)
    }
}

/// `cm^2` as `cm²`, so that a unit has no digits.
fn square_signs(text: &str) -> String {
    let mut written = text.replace("^{2}", "^2").replace("^{3}", "^3");
    for (from, to) in [("^2", '²'), ("^3", '³')] {
        while let Some(at) = written.find(from).filter(|&at| written[..at].ends_with(char::is_alphabetic)) {
            written.replace_range(at..at + from.len(), to.encode_utf8(&mut [0; 4]));
        }
    }
    written
}

/// Whether the words (in lower case) after a number name its unit or what is counted, and leave its value alone.
fn is_unit(words: &[String], is_attached: bool, value: &Value) -> bool {
    let is_word = |word: &String| {
        word.chars().all(|c| c.is_alphabetic() || "/²³-'.".contains(c))
            && !CHANGING.contains(&word.as_str())
            && !NUMBER_WORDS.contains(&word.as_str())
            && !SCALES.iter().any(|(name, _)| word == name)
    };
    let Some(first) = words.first() else { return true };
    let head = first.split(['/', '²', '³']).next().unwrap_or(first);
    let is_known = SYMBOLS.contains(&head) || UNITS.iter().any(|(symbol, _)| head == *symbol);
    let is_decade = is_attached && first == "s" && matches!(value, Value::Number { value, .. } if *value >= 1000.0);
    let letters = head.chars().count();
    let is_long = letters >= 3 || (letters == 2 && !is_attached);
    words.len() <= UNIT_WORDS_MAX && words.iter().all(is_word) && (is_known || is_long) && !is_decade
}

/// The one spelling of a unit or a counted thing: its symbol, or its singular.
fn symbol(word: &str) -> &str {
    let singular = word.strip_suffix('s').filter(|rest| rest.chars().count() > 1).unwrap_or(word);
    UNITS.iter().find(|(_, name)| *name == singular).map_or(singular, |(symbol, _)| symbol)
}
