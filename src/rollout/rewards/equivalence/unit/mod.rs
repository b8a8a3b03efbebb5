//! Units and counted things after a number: `cm`, `square meters`, `km/h`, `USD`, `people`.

mod known;
mod words;

use super::number::Number;
use super::text::is_ideograph;
use known::{Known, MONEY, are_loose, find};
pub(super) use words::singular;
use words::{PLACES, PLURALS, are_plain, phrase};

/// What a number counts or measures.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Nothing is said.
    None,
    /// `%`.
    Percent,
    /// Bases with their powers, in order, and the unit's size in them.
    Measure {
        /// What is measured: `m`¹ `s`⁻¹.
        bases: Vec<(String, i32)>,
        /// The size in those bases.
        size: Number,
        /// As it was written: the case of a prefix tells mW from MW.
        written: String,
    },
    /// An ordinal: `3rd`.
    Ordinal,
    /// Words that name what is counted, singular.
    Counted(Vec<String>),
}

/// The currency that `text` begins with, and what follows.
pub fn currency_prefix(text: &str) -> Option<(Unit, &str)> {
    let lower = text.to_ascii_lowercase();
    let names = MONEY.iter().flat_map(|money| money.names.iter().map(move |name| (*name, money)));
    let begins = |name: &str| {
        let is_word = name.ends_with(|c: char| c.is_ascii_alphabetic());
        lower.strip_prefix(name).is_some_and(|rest| {
            let first = rest.trim_start().chars().next();
            first.is_some_and(|c| c.is_ascii_digit() || c == '.' || c == '-') && (!is_word || name.len() >= 2)
        })
    };
    let (name, money) = names.filter(|(name, _)| begins(name)).max_by_key(|(name, _)| name.len())?;
    Some((measure(money), text[name.len()..].trim_start()))
}

fn measure(known: &Known) -> Unit {
    let size = Number::integer(known.size.0).over(Number::integer(known.size.1)).expect("sizes are not zero");
    let bases = match known.base.split_once('/') {
        Some((above, below)) => vec![(above.to_owned(), 1), (below.to_owned(), -1)],
        None => vec![(known.base.to_owned(), 1)],
    };
    Unit::Measure { bases, size, written: String::new() }
}

impl Unit {
    /// Needs what follows a number; `is_attached` if no space stands between, `value` the number. `None` where it changes the number, or
    /// says something else.
    pub fn read(text: &str, is_attached: bool, value: f64) -> Option<Self> {
        let lower = text.trim().trim_end_matches('.').to_lowercase();
        if lower.is_empty() {
            return Some(Self::None);
        }
        if let Some(unit) = Self::percent(&lower) {
            return Some(unit);
        }
        let phrase = phrase(&lower);
        let words: Vec<&str> = phrase.split_whitespace().collect();
        if is_attached && words == ["s"] && value >= 1000.0 {
            return None; // A decade: `1990s`.
        }
        // A measure may be followed by words: `5 cm long`, `30 years old`.
        let known =
            (1..=words.len().min(3)).rev().find_map(|used| Some((Self::product(&words[..used].join(" "))?, used)));
        if let Some((mut unit, used)) = known {
            if let Self::Measure { written, .. } = &mut unit {
                text.trim().clone_into(written);
            }
            return are_plain(&words[used..]).then_some(unit);
        }
        let first = words.first()?;
        let letters = first.chars().count();
        let is_ideograph = first.chars().all(is_ideograph);
        // What is counted has a plural, unless it is one; a word attached to a number is none.
        let counted: Vec<&str> = words.iter().take_while(|word| !PLACES.contains(word)).copied().collect();
        let is_plural = |word: &str| {
            (word.ends_with('s') && !word.ends_with("ss")) || PLURALS.iter().any(|(plural, _)| *plural == word)
        };
        let is_noun =
            !is_attached && letters >= 2 && (value == 1.0 || counted.last().is_some_and(|last| is_plural(last)));
        let is_half_day = matches!(words.as_slice(), ["am" | "pm"]);
        ((is_noun || is_ideograph || is_half_day) && are_plain(&words))
            .then(|| Self::Counted(counted.iter().map(|word| singular(word)).collect()))
    }

    fn percent(lower: &str) -> Option<Self> {
        let rest = ["%", "percent", "per cent", "pct"].iter().find_map(|sign| lower.strip_prefix(sign))?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let of = matches!(words.as_slice(), ["of", of @ ..] if are_plain(of) && !of.is_empty());
        (words.is_empty() || of || (rest.starts_with(' ') && are_plain(&words))).then_some(Self::Percent)
    }

    /// A product of known units: `m²`, `km/h`, `kg m/s²`.
    fn product(text: &str) -> Option<Self> {
        if let Some(known) = find(text) {
            return Some(measure(known));
        }
        let mut bases: Vec<(String, i32)> = Vec::new();
        let mut size = Number::integer(1);
        for (place, part) in text.split('/').enumerate() {
            let sign = if place == 0 { 1 } else { -1 };
            for factor in part.split([' ', '·', '*']).filter(|factor| !factor.is_empty()) {
                let (name, power) = match factor.strip_suffix(['²', '³']) {
                    Some(name) => (name, if factor.ends_with('²') { 2 } else { 3 }),
                    None => (factor, 1),
                };
                let Self::Measure { bases: own, size: of_one, .. } = measure(find(name)?) else { return None };
                size = size.times(of_one.power(Number::integer(i64::from(sign * power))));
                bases.extend(own.into_iter().map(|(base, own)| (base, own * sign * power)));
            }
        }
        bases.sort();
        (!bases.is_empty()).then_some(Self::Measure { bases, size, written: String::new() })
    }

    /// Whether both are the same unit, whatever it is called.
    pub fn is_like(&self, other: &Self) -> bool {
        let one = Number::integer(1);
        self.same(one, other, one)
    }

    /// The known unit that `text` names: `hours`, `square meters`.
    pub fn named(text: &str) -> Option<Self> {
        Self::product(&phrase(text))
    }

    /// `number` of this unit in another unit of the same kind.
    pub fn convert(&self, number: Number, to: &Self) -> Option<Number> {
        match (self, to) {
            (Self::Measure { bases: a, size: s, .. }, Self::Measure { bases: b, size: t, .. }) if a == b => {
                number.times(*s).over(*t)
            }
            _ => None,
        }
    }

    /// Whether `number` of this unit and `other_number` of `other` are the same. A unit that only one of them names changes nothing.
    pub fn same(&self, number: Number, other: &Self, other_number: Number) -> bool {
        let hundred = Number::integer(100);
        match (self, other) {
            (Self::Percent, Self::None) => {
                number.same(&other_number) || number.over(hundred).is_some_and(|part| part.same(&other_number))
            }
            (Self::None, Self::Percent) => other.same(other_number, self, number),
            (Self::Ordinal, Self::Measure { .. } | Self::Counted(_))
            | (Self::Measure { .. } | Self::Counted(_), Self::Ordinal) => false,
            (Self::None, _) | (_, Self::None) | (Self::Percent, Self::Percent) => number.same(&other_number),
            (Self::Ordinal, Self::Ordinal) => number.same(&other_number),
            (Self::Measure { written: a, .. }, Self::Measure { written: b, .. }) if differ_in_prefix(a, b) => false,
            (Self::Measure { bases: a, size: s, .. }, Self::Measure { bases: b, size: t, .. }) => {
                match (a.as_slice(), b.as_slice()) {
                    (a, b) if a == b => number.times(*s).same(&other_number.times(*t)),
                    ([(a, 1)], [(b, 1)]) if are_loose(a, b) => number.same(&other_number),
                    _ => false,
                }
            }
            (Self::Counted(a), Self::Counted(b)) => {
                let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
                number.same(&other_number) && few.last() == many.last() && few.iter().all(|word| many.contains(word))
            }
            _ => false,
        }
    }
}

/// Whether two symbols are the same but for the case of a prefix `m` or of a `b`: milli and mega, bit and byte.
pub fn differ_in_prefix(a: &str, b: &str) -> bool {
    let lower = a.to_ascii_lowercase();
    let has_prefix = lower.starts_with('m') && !matches!(lower.as_str(), "m" | "mph" | "mi" | "min" | "mile" | "miles");
    let has_bits = ["b", "kb", "mb", "gb", "tb", "kbps", "mbps", "gbps"].contains(&lower.as_str());
    let differ = |(at, (a, b)): (usize, (char, char))| {
        a != b && ((at == 0 && has_prefix) || (a.eq_ignore_ascii_case(&'b') && has_bits) || lower == "nm")
    };
    a.len() <= 5 && a.eq_ignore_ascii_case(b) && a.chars().zip(b.chars()).enumerate().any(differ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let read = |text: &str| Unit::read(text, false, 5.0).unwrap_or_else(|| panic!("{text}"));
        read(a).same(Number::integer(60), &read(b), Number::integer(60))
    }

    #[test]
    fn units_are_known_by_symbol_and_word() {
        for (a, b) in [
            ("cm", "centimeters"),
            ("mph", "miles per hour"),
            ("km/h", "kilometers per hour"),
            ("cm^2", "square centimeters"),
            ("m²", "square metres"),
            ("°C", "degrees Celsius"),
            ("USD", "dollars"),
            ("people", "persons"),
            ("red cars", "cars"),
            ("%", "percent"),
            ("lb", "pounds"),
            ("m/s", "meters per second"),
            ("years old", "years"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("mph", "km/h"),
            ("cats", "dogs"),
            ("cm", "m"),
            ("°C", "°F"),
            ("am", "pm"),
            ("%", "cm"),
            ("mW", "MW"),
            ("Mbps", "MBps"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
        for text in [
            "nope",
            "never",
            "unless",
            "too many",
            "pairs",
            "factorial",
            "is wrong",
            "or more",
            "million",
            "tenths",
            "out of 10",
            "eleven",
            "x",
        ] {
            assert!(Unit::read(text, false, 5.0).is_none(), "{text}");
        }
    }

    #[test]
    fn measures_of_one_kind_are_converted() {
        let read = |text: &str| Unit::read(text, false, 5.0).unwrap();
        assert!(read("cm").same(Number::integer(100), &read("m"), Number::integer(1)));
        assert!(read("km/h").same(Number::integer(36), &read("m/s"), Number::integer(10)));
        assert!(read("cents").same(Number::integer(50), &read("dollars"), Number::decimal("0.5").unwrap()));
    }
}
