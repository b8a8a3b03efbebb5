//! Values: a number with its unit, a formula, or several values in a list, a tuple, a set, an interval.

use super::expression::{Expression, is_algebra, number_length};
use super::number::{Number, ideographic, is_ordinal, ordinal_digits, scale, spoken, unit_fraction};
use super::question::Question;
use super::unit::{Unit, currency_prefix};
use super::verdict::Verdict;

/// Longest text that is read, in bytes.
const FORMULA_BYTES_MAX: usize = 512;
/// Deepest nesting of collections.
const DEPTH_MAX: usize = 8;
/// Words before a number that leave it as it is.
const ABOUT: [&str; 16] = [
    "the ",
    "approximately ",
    "approx. ",
    "approx ",
    "about ",
    "around ",
    "roughly ",
    "exactly ",
    "nearly exactly ",
    "a total of ",
    "only ",
    "just ",
    "≈",
    "~",
    "=",
    ":",
];
/// Nouns of which anything may be an instance.
const GENERAL: [&str; 7] = ["object", "item", "thing", "unit", "piece", "time", "one"];
/// Letters after a number that multiply it.
const SUFFIXES: [(&str, i64); 8] = [
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("mm", 1_000_000),
    ("B", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("万", 10_000),
    ("亿", 100_000_000),
];

#[derive(Clone, Debug)]
pub enum Value {
    /// A number and what it counts.
    Quantity(Number, Unit),
    /// An expression with variables.
    Formula(Expression),
    /// Several values, and what stands around them.
    Collection(Brackets, Vec<Value>),
}

/// What stands around several values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brackets {
    /// Nothing: `1, 2`.
    Bare,
    /// Braces: a set.
    Set,
    /// Round or square ones, open and close: a tuple, a list, an interval.
    Ordered(char, char),
    /// Intervals of which one holds.
    Union,
}

/// A value and the variables that it is given to, in order.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// `x` of `x = 3`; `x`, `y` of `x = 3, y = 4`; none where only a value is said.
    pub names: Vec<String>,
    pub value: Value,
}

impl Assigned {
    /// Needs a text (canonical, without LaTeX's markup).
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > FORMULA_BYTES_MAX {
            return None;
        }
        let mixed = mixed(text);
        let text = mixed.as_deref().unwrap_or(text);
        if let Some(value) = named_number(text).or_else(|| compound(text, 2)) {
            return Some(Self { names: Vec::new(), value });
        }
        if let Some(value) = intervals(text) {
            return Some(Self { names: Vec::new(), value });
        }
        let either: Vec<&str> = text.split(" or ").collect();
        let is_either = either.len() > 1 && either.iter().all(|part| assignment(part).is_some());
        let parts = if is_either { either } else { split_list(text, Separators::Words) };
        let assignments: Option<Vec<(&str, &str)>> = parts.iter().map(|part| assignment(part)).collect();
        match assignments.filter(|_| parts.len() > 1) {
            Some(mut assignments) => {
                assignments.sort_by_key(|(name, _)| *name);
                let names: Vec<String> = assignments.iter().map(|(name, _)| (*name).to_owned()).collect();
                let values = assignments.iter().map(|(_, value)| read(value, 0)).collect::<Option<_>>()?;
                let is_one = names.iter().all(|name| *name == names[0]);
                let names = if is_one { names[..1].to_vec() } else { names };
                Some(Self { names, value: Value::Collection(Brackets::Bare, values) })
            }
            None => {
                let (name, text) =
                    assignment(text).map_or((None, text), |(name, value)| (Some(name.to_owned()), value));
                Some(Self { names: name.into_iter().collect(), value: equation(text).or_else(|| read(text, 0))? })
            }
        }
    }

    /// Compares two numbers of which only one has a unit, where the question asks for a unit, a thing or a scale: `150 cm` to a question
    /// for meters is `1.5`, `7 months` to one for years is no `7`. `None` where the question says nothing of it.
    pub fn against_asked(&self, other: &Self, question: &Question) -> Option<Verdict> {
        let (Value::Quantity(a, unit), Value::Quantity(b, other)) = (&self.value, &other.value) else { return None };
        let (number, unit, bare) = match (unit, other) {
            (unit, Unit::None) => (a, unit, b),
            (Unit::None, unit) => (b, unit, a),
            _ => return None,
        };
        if let Some(scale) = question.scale
            && (number.same(&bare.times(scale)) || bare.same(&number.times(scale)))
        {
            return Some(Verdict::Same);
        }
        match (unit, &question.unit) {
            (Unit::Measure { .. }, Some(asked)) if !unit.is_like(asked) => {
                Some(Verdict::of(unit.convert(*number, asked).is_some_and(|number| number.same(bare))))
            }
            (Unit::Counted(nouns), _) if question.asks_count && !nouns.iter().any(|noun| question.says(noun)) => {
                let is_general = nouns.last().is_some_and(|noun| GENERAL.contains(&noun.as_str()));
                let is_same = number.same(bare) && !is_general;
                is_same.then(|| Verdict::unknown("the answer counts something that the question does not name"))
            }
            _ => None,
        }
    }

    /// Whether it is an ordinal.
    pub fn is_ordinal(&self) -> bool {
        matches!(self.value, Value::Quantity(_, Unit::Ordinal))
    }

    /// The number, where it is a single one; a percentage both ways.
    pub fn numbers(&self) -> Vec<f64> {
        match &self.value {
            Value::Quantity(number, Unit::Percent) => vec![number.value(), number.value() / 100.0],
            Value::Quantity(number, _) => vec![number.value()],
            _ => Vec::new(),
        }
    }

    /// Whether both are the same; names count where both have some. `None` where no rule can tell.
    pub fn same(&self, other: &Self, is_ordered: bool) -> Option<bool> {
        if !self.names.is_empty() && !other.names.is_empty() && self.names != other.names {
            return Some(false);
        }
        let is_ordered = is_ordered || self.names.len() > 1 || other.names.len() > 1;
        self.value.same(&other.value, is_ordered)
    }
}

impl Value {
    /// Whether it is a plain number, with or without a unit.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Quantity(..))
    }

    fn same(&self, other: &Self, is_ordered: bool) -> Option<bool> {
        match (self, other) {
            (Self::Quantity(a, unit), Self::Quantity(b, other)) => Some(unit.same(*a, other, *b)),
            (Self::Formula(a), Self::Formula(b)) => a.same(b),
            (Self::Collection(a, x), Self::Collection(b, y)) => {
                use Brackets::{Bare, Ordered, Set, Union};
                let in_order = match (a, b) {
                    (Union, Union) => false,
                    (Union, _) | (_, Union) => return Some(false),
                    (Bare, Bare) => is_ordered,
                    (Set | Bare, Set | Bare) => false,
                    (Bare, Ordered(..)) | (Ordered(..), Bare) => true,
                    (Ordered(..), Ordered(..)) if a == b => true,
                    _ => return Some(false),
                };
                if x.len() != y.len() {
                    return Some(false);
                }
                if in_order { same_in_order(x, y) } else { Some(same_in_any_order(x, y)) }
            }
            _ => Some(false),
        }
    }
}

fn same_in_order(a: &[Value], b: &[Value]) -> Option<bool> {
    let each: Vec<Option<bool>> = a.iter().zip(b).map(|(a, b)| a.same(b, true)).collect();
    match each.contains(&Some(false)) {
        true => Some(false),
        false => each.into_iter().collect::<Option<Vec<_>>>().map(|_| true),
    }
}

fn same_in_any_order(a: &[Value], b: &[Value]) -> bool {
    let mut rest: Vec<&Value> = b.iter().collect();
    a.iter().all(|value| {
        let found = rest.iter().position(|other| value.same(other, true) == Some(true));
        found.map(|at| rest.swap_remove(at)).is_some()
    })
}

/// A bracketed collection, a quantity or a formula.
fn read(text: &str, depth: usize) -> Option<Value> {
    let text = &text.trim().trim_end_matches('.').replace(" x 10^", "×10^").replace("x10^", "×10^");
    let text = mixed(text).unwrap_or_else(|| text.to_owned());
    // A dash in front of a number is its sign.
    let text = text.strip_prefix('–').map_or(text.to_owned(), |rest| format!("-{rest}"));
    let text = text.trim_end();
    if depth > DEPTH_MAX || text.is_empty() {
        return None;
    }
    if let Some((before, after)) = text.split_once('±') {
        let sides = ["+", "-"].map(|sign| read(&format!("{before}{sign}{after}"), depth + 1));
        let [Some(plus), Some(minus)] = sides else { return None };
        return Some(Value::Collection(Brackets::Bare, vec![plus, minus]));
    }
    let separators = if depth == 0 { Separators::Words } else { Separators::Signs };
    let parts = split_list(text, separators);
    if parts.len() > 1 {
        let values = parts.into_iter().map(|part| read(part, depth + 1)).collect::<Option<_>>()?;
        return Some(Value::Collection(Brackets::Bare, values));
    }
    if let Some((brackets, inner)) = bracketed(text) {
        let parts = split_list(inner, Separators::InBrackets);
        if parts.len() > 1 || brackets == Brackets::Set || (brackets == Brackets::Ordered('[', ']')) {
            let values = parts.into_iter().map(|part| read(part, depth + 1)).collect::<Option<_>>()?;
            return Some(Value::Collection(brackets, values));
        }
    }
    if let Some(value) = infinity(text) {
        return Some(Value::Quantity(value, Unit::None));
    }
    quantity(text).or_else(|| compound(text, 1)).or_else(|| formula(text)).or_else(|| {
        let value = Expression::read(text)?.value()?;
        Some(Value::Quantity(value, Unit::None))
    })
}

/// A quantity in at least so many units of one kind: `2 hours 30 minutes`, `5 ft 10 in`, `5'10"`.
fn compound(text: &str, least: usize) -> Option<Value> {
    let spaced = text.replace('\'', " ft ").replace('"', " in ").replace(" and ", " ").replace(',', " ");
    let mut total: Option<(Number, Unit)> = None;
    let mut rest = spaced.trim();
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = number_length(rest);
        let number = Number::decimal(&rest[..digits])?;
        let after = rest[digits..].trim_start();
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = Unit::read(after[..end].trim(), true, number.value())
            .filter(|unit| matches!(unit, Unit::Measure { .. }))?;
        total = Some(match total {
            None => (number, unit),
            Some((sum, first)) => (sum.plus(unit.convert(number, &first)?), first),
        });
        rest = after[end..].trim_start();
        parts += 1;
    }
    total.filter(|_| parts >= least).map(|(number, unit)| Value::Quantity(number, unit))
}

/// `1 and 1/2` as `1 1/2`.
fn mixed(text: &str) -> Option<String> {
    let (whole, part) = text.split_once(" and ")?;
    let (above, below) = part.split_once('/')?;
    let are_digits =
        [whole, above, below].iter().all(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    are_digits.then(|| format!("{whole} {part}"))
}

/// The number whose name the whole text is: the `and` of `one hundred and five` makes no list.
fn named_number(text: &str) -> Option<Value> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let (number, _) = spoken(&words).filter(|(_, used)| *used == words.len())?;
    let unit = if words.iter().any(|word| is_ordinal(word)) { Unit::Ordinal } else { Unit::None };
    Some(Value::Quantity(number, unit))
}

/// An equation between two numbers that holds (`2+2=4`): the number.
fn equation(text: &str) -> Option<Value> {
    let (left, right) = text.split_once('=')?;
    let (left, right) = (Expression::read(left)?.value()?, Expression::read(right)?.value()?);
    left.same(&right).then_some(Value::Quantity(right, Unit::None))
}

fn formula(text: &str) -> Option<Value> {
    let joined: String = text.chars().filter(|c| *c != ' ').collect();
    let expression = Expression::read(text).filter(|_| is_algebra(&joined))?;
    match expression.variables().as_slice() {
        [] => None,
        // Euler's number where it is the only letter.
        ['e'] => expression.value_of_e().map(|value| Value::Quantity(value, Unit::None)),
        _ => Some(Value::Formula(expression)),
    }
}

/// A number with its unit: `5 cm`, `€5`, `$1.5M`, `ten percent`, `about 50`, `two thirds`, `3rd`.
fn quantity(text: &str) -> Option<Value> {
    let mut text = text.trim();
    while let Some(rest) = ABOUT.iter().find_map(|words| strip_prefix(text, words)) {
        text = rest.trim_start();
    }
    let is_number = |text: &&str| text.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let spoken_sign = ["minus ", "negative "].iter().find_map(|sign| strip_prefix(text, sign)).filter(is_number);
    let signed = spoken_sign.map(|rest| format!("-{}", rest.trim_start()));
    let text = signed.as_deref().unwrap_or(text);
    let (is_negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest.trim_start()),
        None => (false, text),
    };
    if let Some((currency, rest)) = currency_prefix(unsigned) {
        let Value::Quantity(number, unit) = measured(rest, true)? else { return None };
        let is_same_money = matches!((&unit, &currency), (Unit::None, _)) || {
            let one = Number::integer(1);
            unit.same(one, &currency, one)
        };
        let number = if is_negative { number.negative() } else { number };
        return is_same_money.then_some(Value::Quantity(number, currency));
    }
    measured(text, false)
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..]).filter(|rest| !rest.trim().is_empty())
}

/// A number in digits or words, and what follows it.
fn measured(text: &str, is_money: bool) -> Option<Value> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    if let Some((number, used)) = spoken(&words) {
        let unit = Unit::read(&words[used..].join(" "), false, number.value())?;
        let unit = match unit {
            Unit::None if words[..used].iter().any(|word| is_ordinal(word)) => Unit::Ordinal,
            unit => unit,
        };
        return Some(Value::Quantity(number, unit));
    }
    if let Some((number, length)) = ideographic(text) {
        return Some(Value::Quantity(number, Unit::read(&text[length..], true, number.value())?));
    }
    if let Some(number) = words.first().and_then(|word| ordinal_digits(word)) {
        return (words.len() == 1).then_some(Value::Quantity(number, Unit::Ordinal));
    }
    // The exponent of a unit is no digit of a number.
    let text = unit_exponents(text);
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || matches!(c, '}' | ')' | ']' | '|' | 'π'))
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let (number, mut rest) = number_before(&text, end)?;
    let mut number = number;
    let is_attached = !rest.starts_with(' ');
    rest = rest.trim_start();
    let first: String = rest.chars().take_while(|c| c.is_alphabetic()).collect();
    let letters = SUFFIXES.iter().find(|(suffix, _)| {
        let is_letter = suffix.is_ascii();
        if is_letter {
            (is_attached || is_money) && first == *suffix && (*suffix != "mm" || is_money)
        } else {
            first.starts_with(suffix)
        }
    });
    let million = (is_money && first == "m").then_some(("m", 1_000_000));
    if let Some((suffix, factor)) = letters.copied().or(million) {
        number = number.times(Number::integer(factor));
        rest = &rest[suffix.len()..];
    } else if let Some(factor) = scale(&first.to_lowercase()) {
        number = number.times(factor);
        rest = &rest[first.len()..];
    } else if let Some(fraction) = unit_fraction(&first.to_lowercase()).filter(|_| !is_attached && first != "second") {
        // `2 thirds`, but not `30 seconds`.
        number = number.times(fraction);
        rest = &rest[first.len()..];
    }
    let unit = Unit::read(rest, is_attached, number.value())?;
    Some(Value::Quantity(number, unit))
}

/// The number that `text` begins with, as far as `end` or a shorter place before a word, and the rest.
fn number_before(text: &str, end: usize) -> Option<(Number, &str)> {
    let value = |end: usize| Some((Expression::read(&text[..end])?.value()?, &text[end..]));
    let degrees = text[end..].trim_start().strip_prefix('°').filter(|rest| rest.is_empty());
    if let Some(rest) = degrees {
        // The angle of a function is part of the number; `30°` is a number and its unit.
        let has_function = text.contains(char::is_alphabetic);
        let (number, _) = value(if has_function { text.len() } else { end })?;
        return Some((number, if has_function { rest } else { &text[end..] }));
    }
    value(end).or_else(|| {
        // `5 cm by car 2` has digits after its number.
        let used = number_length(text);
        (used > 0).then(|| value(used)).flatten()
    })
}

/// `cm^2` as `cm²`, so that a unit has no digits.
fn unit_exponents(text: &str) -> String {
    let mut written = text.replace("^{2}", "^2").replace("^{3}", "^3");
    // Beside an operator it is a formula's exponent.
    if written.contains(['+', '=', '(', '\\']) {
        return written;
    }
    for (from, to) in [("^2", "²"), ("^3", "³")] {
        let pieces: Vec<&str> = written.split(from).collect();
        let mut joined = pieces[0].to_owned();
        for piece in &pieces[1..] {
            joined.push_str(if joined.ends_with(char::is_alphabetic) { to } else { from });
            joined.push_str(piece);
        }
        written = joined;
    }
    written
}

/// Plus or minus infinity, as a bound of an interval.
fn infinity(text: &str) -> Option<Number> {
    let (sign, name) = match text.strip_prefix('-') {
        Some(name) => (-1.0, name),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    ["∞", "infinity", "inf", "oo"].contains(&name.trim()).then(|| Number::real(sign * f64::INFINITY))
}

/// The name and the value of `x = 3`, `∠B = 70°`, `x ≈ 8.5`: a letter, perhaps with an index, an argument or a noun before it.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(['=', '≈'])?;
    let name = name.trim();
    let bare = name.strip_suffix("(x)").unwrap_or(name);
    let bare = ["angle ", "area ", "length ", "m∠", "∠", "△"]
        .iter()
        .find_map(|noun| bare.strip_prefix(noun))
        .unwrap_or(bare)
        .trim();
    let mut letters = bare.chars();
    let is_name = letters.next().is_some_and(char::is_alphabetic)
        && letters.clone().count() <= 7
        && letters.all(|c| c.is_alphanumeric() || "_{}".contains(c));
    (is_name && !value.trim().is_empty() && !value.contains('=')).then(|| (name, value.trim()))
}

/// An inequality in one variable as its interval (`1 < x ≤ 2` is `(1, 2]`), an interval after `x ∈`, or a union of such.
fn intervals(text: &str) -> Option<Value> {
    let text = text.replace("<=", "≤").replace(">=", "≥").replace(" or ", "∪").replace(" and ", "∩");
    let has_sign = text.contains(['<', '>', '≤', '≥', '∈', '∪']);
    if !has_sign || text.contains('∩') {
        return None;
    }
    let parts: Vec<&str> = text.split('∪').map(str::trim).collect();
    let mut read_parts = parts.into_iter().map(interval).collect::<Option<Vec<_>>>()?;
    match read_parts.len() {
        1 => read_parts.pop(),
        _ => Some(Value::Collection(Brackets::Union, read_parts)),
    }
}

fn interval(text: &str) -> Option<Value> {
    if let Some((_, set)) = text.split_once('∈') {
        return read(set, 0);
    }
    let signs: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| "<>≤≥".contains(*c)).collect();
    let side = |from: usize, to: usize| text[from..to].trim();
    let is_variable = |side: &str| side.chars().count() == 1 && side.chars().all(char::is_alphabetic);
    let bound = |side: &str| infinity(side).or_else(|| Expression::read(side)?.value());
    let endless = |sign: f64| Number::real(sign * f64::INFINITY);
    let is_less = |sign: char| "<≤".contains(sign);
    // The lower bound with whether it belongs to the interval, and the upper one.
    let (low, high) = match signs.as_slice() {
        [] => return read(text, 0),
        [(at, sign)] => {
            let (left, right) = (side(0, *at), side(at + sign.len_utf8(), text.len()));
            let is_closed = "≤≥".contains(*sign);
            let (value, is_above) = match (is_variable(left), is_variable(right)) {
                (true, false) => (bound(right)?, !is_less(*sign)),
                (false, true) => (bound(left)?, is_less(*sign)),
                _ => return None,
            };
            if is_above {
                ((value, is_closed), (endless(1.0), false))
            } else {
                ((endless(-1.0), false), (value, is_closed))
            }
        }
        [(first, a), (second, b)] if is_less(*a) == is_less(*b) => {
            let (left, right) = (side(0, *first), side(second + b.len_utf8(), text.len()));
            is_variable(side(first + a.len_utf8(), *second)).then_some(())?;
            let (left, right) = ((bound(left)?, "≤≥".contains(*a)), (bound(right)?, "≤≥".contains(*b)));
            if is_less(*a) { (left, right) } else { (right, left) }
        }
        _ => return None,
    };
    let brackets = Brackets::Ordered(if low.1 { '[' } else { '(' }, if high.1 { ']' } else { ')' });
    let values = [low.0, high.0].map(|number| Value::Quantity(number, Unit::None));
    Some(Value::Collection(brackets, values.to_vec()))
}

/// The brackets around the whole of `text`, and what they hold. A brace written plainly counts as a set.
fn bracketed(text: &str) -> Option<(Brackets, &str)> {
    let open = text.chars().next()?;
    let close = text.chars().next_back()?;
    let brackets = match (open, close) {
        ('⦃', '⦄') | ('{', '}') => Brackets::Set,
        ('(' | '[', ')' | ']') => Brackets::Ordered(open, close),
        _ => return None,
    };
    let inner = text.get(open.len_utf8()..text.len() - close.len_utf8())?;
    let mut depth = 0i32;
    for character in inner.chars() {
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    Some((brackets, inner))
}

/// What separates the parts of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Separators {
    /// Commas, semicolons, line ends, `and`, `&`; a comma between digits groups thousands.
    Words,
    /// Commas and semicolons; a comma between digits groups thousands.
    Signs,
    /// Commas and semicolons; a comma between digits groups thousands only beside another comma with a space.
    InBrackets,
}

/// Splits a list at its separators outside brackets. One part where it is no list.
pub fn split_list(text: &str, separators: Separators) -> Vec<&str> {
    let has_spaced = text.contains(", ") || text.contains(';');
    let mut parts = Vec::new();
    let (mut depth, mut start, mut at) = (0i32, 0, 0);
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        let mut length = 0;
        match character {
            '(' | '[' | '{' | '⦃' => depth += 1,
            ')' | ']' | '}' | '⦄' => depth -= 1,
            ',' if depth == 0 => {
                let groups = groups_thousands(text, at) && (separators != Separators::InBrackets || has_spaced);
                length = usize::from(!groups);
            }
            ';' if depth == 0 => length = 1,
            '\n' | '&' if depth == 0 && separators == Separators::Words => length = 1,
            '和' | '与' if depth == 0 && separators == Separators::Words => length = character.len_utf8(),
            ' ' if depth == 0 && separators == Separators::Words => {
                length =
                    [" and ", " as well as "].iter().find(|word| rest.starts_with(**word)).map_or(0, |word| word.len());
            }
            _ => {}
        }
        if length > 0 {
            parts.push(&text[start..at]);
            start = at + length;
            at = start;
        } else {
            at += character.len_utf8();
        }
    }
    parts.push(&text[start..]);
    // Bullets of a list.
    let bullet = |part: &'_ str| -> usize {
        let bare = part.trim_start();
        let marked = ["- ", "* ", "· "].iter().find_map(|mark| bare.strip_prefix(mark)).unwrap_or(bare);
        part.len() - if separators == Separators::Words && text.contains('\n') { marked.len() } else { bare.len() }
    };
    let parts: Vec<&str> = parts.into_iter().map(|part| &part[bullet(part)..]).collect();
    // `a, b, and c`: nothing stands between the comma and the word.
    let parts: Vec<&str> = parts.into_iter().map(|part| part.trim().trim_start_matches("and ").trim_start()).collect();
    match parts.iter().filter(|part| !part.is_empty()).count() {
        count if count + 1 >= parts.len() && count > 1 => parts.into_iter().filter(|part| !part.is_empty()).collect(),
        _ => vec![text],
    }
}

/// Whether the comma at `comma` stands between one to three digits (or a group) and exactly three digits.
fn groups_thousands(text: &str, comma: usize) -> bool {
    let before = text[..comma].bytes().rev().take_while(u8::is_ascii_digit).count();
    let after = text[comma + 1..].bytes().take_while(u8::is_ascii_digit).count();
    (1..=3).contains(&before) && after == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> Option<bool> {
        Assigned::read(a)?.same(&Assigned::read(b)?, false)
    }

    #[test]
    fn values_are_the_same_in_every_form() {
        for (a, b) in [
            ("1,234", "1234"),
            ("$3.50", "3.5"),
            ("3.5 dollars", "$3.50"),
            ("$1.5M", "1.5 million dollars"),
            ("ten percent", "10%"),
            ("0.5", "50%"),
            ("two thirds", "2/3"),
            ("2 thirds", "2/3"),
            ("5米", "5"),
            ("12 m^2", "12 square meters"),
            ("1<x<2", "(1,2)"),
            ("x>3", "(3,∞)"),
            ("x ∈ [1,2)", "1≤x<2"),
            ("x=3, y=4", "(3,4)"),
            ("y=4, x=3", "x=3, y=4"),
            ("x=1, x=2", "2, 1"),
            ("±2", "2, -2"),
            ("(1,000, 2)", "(1000,2)"),
            ("{1,2}", "{2,1}"),
            ("3 and 4", "4,3"),
            ("2+2=4", "4"),
            ("y = 2x+1", "1+2x"),
            ("30 seconds", "0.5 minutes"),
            ("2 hours 30 minutes", "2h 30min"),
            ("5'10\"", "5 feet 10 inches"),
            ("十二", "12"),
            ("minus 5 degrees Celsius", "-5 °C"),
            ("3x^2y", "3yx^2"),
            ("3rd", "third"),
        ] {
            assert_eq!(same(a, b), Some(true), "{a} {b}");
        }
        for (a, b) in [
            ("(100,200)", "100200"),
            ("(1,2)", "[1,2]"),
            ("(1,2)", "(2,1)"),
            ("1234567890", "1234567891"),
            ("60 mph", "60 km/h"),
            ("7 tenths", "7"),
            ("2 thirds", "2"),
            ("y = 5", "x = 5"),
            ("3.14", "π"),
            ("2 seconds", "second"),
            ("1990s", "1990"),
            ("7th", "7 people"),
        ] {
            assert_eq!(same(a, b), Some(false), "{a} {b}");
        }
        for text in ["7 is wrong", "7=5", "3D printing", "5 or more", "cat", "5 plus 3"] {
            assert!(Assigned::read(text).is_none(), "{text}");
        }
    }
}
