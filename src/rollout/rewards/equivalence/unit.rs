//! Units and counted things after a number: `cm`, `square meters`, `km/h`, `USD`, `people`.

use super::number::{Number, is_number_word, scale, unit_fraction};
use super::text::is_ideograph;

/// Most words that name what is counted.
const WORDS_MAX: usize = 4;
/// Words after a number that make another value or another statement of it.
const CHANGING: &str = "\
    or and to more less fewer than out not no none never nope plus minus negative times half halves point is are was \
    were isn't ain't aren't wrong right correct incorrect false true rejected excluded unless except of below above \
    under over before after ago past through until till fold squared cubed doubled halved if but however instead rather \
    too many few others other short extra eleven bc bce pair pairs couple couples tens gross scores pi mod modulo \
    factorial factorials maybe unlike";
/// Words with which what is counted ends: `7 people in the picture`.
const PLACES: [&str; 11] =
    ["in", "on", "at", "from", "near", "with", "visible", "shown", "total", "altogether", "overall"];
/// Plurals that have another form than an `s`.
const PLURALS: [(&str, &str); 14] = [
    ("sheep", "sheep"),
    ("fish", "fish"),
    ("deer", "deer"),
    ("staff", "staff"),
    ("people", "person"),
    ("men", "man"),
    ("women", "woman"),
    ("children", "child"),
    ("feet", "foot"),
    ("mice", "mouse"),
    ("geese", "goose"),
    ("teeth", "tooth"),
    ("knives", "knife"),
    ("leaves", "leaf"),
];

/// A unit that is known: its names (singular), what it measures, and its size in the base of that, as a fraction.
struct Known {
    names: &'static [&'static str],
    base: &'static str,
    size: (i64, i64),
}

const fn known(names: &'static [&'static str], base: &'static str, size: (i64, i64)) -> Known {
    Known { names, base, size }
}

/// Exact sizes (BIPM's SI Brochure; the international yard and pound).
const KNOWN: [Known; 72] = [
    known(&["m", "meter", "米", "公尺"], "m", (1, 1)),
    known(&["cm", "centimeter", "厘米", "公分"], "m", (1, 100)),
    known(&["mm", "millimeter", "毫米"], "m", (1, 1000)),
    known(&["dm", "decimeter", "分米"], "m", (1, 10)),
    known(&["km", "kilometer", "公里", "千米"], "m", (1000, 1)),
    known(&["μm", "um", "micrometer", "micron"], "m", (1, 1_000_000)),
    known(&["nm", "nanometer"], "m", (1, 1_000_000_000)),
    known(&["in", "inch", "inche"], "m", (254, 10_000)),
    known(&["ft", "foot", "feet"], "m", (3048, 10_000)),
    known(&["yd", "yard"], "m", (9144, 10_000)),
    known(&["mi", "mile", "英里"], "m", (1_609_344, 1000)),
    known(&["g", "gram", "gramme", "克"], "g", (1, 1)),
    known(&["kg", "kilogram", "kilo", "千克", "公斤"], "g", (1000, 1)),
    known(&["mg", "milligram", "毫克"], "g", (1, 1000)),
    known(&["t", "tonne", "吨"], "g", (1_000_000, 1)),
    known(&["lb"], "g", (45_359_237, 100_000)),
    known(&["oz", "ounce"], "g", (28_349_523_125, 1_000_000_000)),
    known(&["s", "sec", "second", "秒"], "s", (1, 1)),
    known(&["ms", "millisecond", "毫秒"], "s", (1, 1000)),
    known(&["min", "minute", "分钟"], "s", (60, 1)),
    known(&["h", "hr", "hour", "小时"], "s", (3600, 1)),
    known(&["day", "天"], "s", (86_400, 1)),
    known(&["week", "wk", "周"], "s", (604_800, 1)),
    known(&["month", "个月"], "month", (1, 1)),
    known(&["year", "yr", "年"], "month", (12, 1)),
    known(&["year-old", "岁"], "month", (12, 1)),
    known(&["l", "liter", "升"], "l", (1, 1)),
    known(&["ml", "milliliter", "毫升"], "l", (1, 1000)),
    known(&["cl", "centiliter"], "l", (1, 100)),
    known(&["dl", "deciliter"], "l", (1, 10)),
    known(&["gal", "gallon"], "gallon", (1, 1)),
    known(&["w", "watt"], "w", (1, 1)),
    known(&["kw", "kilowatt"], "w", (1000, 1)),
    known(&["mw", "megawatt"], "w", (1_000_000, 1)),
    known(&["kwh", "kilowatt-hour"], "kwh", (1, 1)),
    known(&["v", "volt"], "v", (1, 1)),
    known(&["kv", "kilovolt"], "v", (1000, 1)),
    known(&["a", "amp", "ampere"], "a", (1, 1)),
    known(&["ma", "milliampere", "milliamp"], "a", (1, 1000)),
    known(&["ohm", "ω"], "ohm", (1, 1)),
    known(&["hz", "hertz"], "hz", (1, 1)),
    known(&["khz", "kilohertz"], "hz", (1000, 1)),
    known(&["mhz", "megahertz"], "hz", (1_000_000, 1)),
    known(&["ghz", "gigahertz"], "hz", (1_000_000_000, 1)),
    known(&["j", "joule"], "j", (1, 1)),
    known(&["kj", "kilojoule"], "j", (1000, 1)),
    known(&["n", "newton"], "n", (1, 1)),
    known(&["pa", "pascal"], "pa", (1, 1)),
    known(&["kpa", "kilopascal"], "pa", (1000, 1)),
    known(&["cal", "calorie"], "cal", (1, 1)),
    known(&["kcal", "kilocalorie"], "cal", (1000, 1)),
    known(&["b", "byte"], "byte", (1, 1)),
    known(&["kb", "kilobyte"], "byte", (1000, 1)),
    known(&["mb", "megabyte"], "byte", (1_000_000, 1)),
    known(&["gb", "gigabyte"], "byte", (1_000_000_000, 1)),
    known(&["tb", "terabyte"], "byte", (1_000_000_000_000, 1)),
    known(&["mmhg"], "mmhg", (1, 1)),
    known(&["rpm"], "rpm", (1, 1)),
    known(&["bpm", "beat/min"], "bpm", (1, 1)),
    known(&["mbps", "megabit/s", "mbit/s"], "bit/s", (1_000_000, 1)),
    known(&["kbps", "kilobit/s", "kbit/s"], "bit/s", (1_000, 1)),
    known(&["gbps", "gigabit/s", "gbit/s"], "bit/s", (1_000_000_000, 1)),
    known(&["mph"], "m/s", (44_704, 100_000)),
    known(&["kph", "kmh", "kmph"], "m/s", (1000, 3600)),
    known(&["degc", "celsius", "centigrade", "摄氏度"], "degc", (1, 1)),
    known(&["degf", "fahrenheit", "华氏度"], "degf", (1, 1)),
    known(&["deg", "degree", "度"], "deg", (1, 1)),
    known(&["rad", "radian"], "rad", (1, 1)),
    known(&["mol", "mole"], "mol", (1, 1)),
    known(&["db", "decibel"], "db", (1, 1)),
    known(&["px", "pixel"], "px", (1, 1)),
    known(&["unit"], "unit", (1, 1)),
];

/// Money: signs and codes (lower case), its name here, its size.
const MONEY: [Known; 20] = [
    known(&["$", "dollar", "buck"], "dollar", (1, 1)),
    known(&["¢", "cent"], "dollar", (1, 100)),
    known(&["usd", "us$", "us dollar"], "usd", (1, 1)),
    known(&["aud", "a$", "au$"], "aud", (1, 1)),
    known(&["cad", "c$", "ca$"], "cad", (1, 1)),
    known(&["hkd", "hk$"], "hkd", (1, 1)),
    known(&["sgd", "s$"], "sgd", (1, 1)),
    known(&["nzd", "nz$"], "nzd", (1, 1)),
    known(&["brl", "r$", "real"], "brl", (1, 1)),
    known(&["€", "eur", "euro"], "eur", (1, 1)),
    known(&["£", "gbp", "pound sterling"], "gbp", (1, 1)),
    known(&["pence", "penny"], "gbp", (1, 100)),
    known(&["pound"], "pound", (1, 1)),
    known(&["¥"], "yen sign", (1, 1)),
    known(&["jpy", "yen", "日元", "円"], "jpy", (1, 1)),
    known(&["cny", "rmb", "yuan", "元", "块"], "cny", (1, 1)),
    known(&["₹", "inr", "rs", "rs.", "rupee"], "inr", (1, 1)),
    known(&["₩", "krw", "won"], "krw", (1, 1)),
    known(&["₽", "rub", "ruble", "rouble"], "rub", (1, 1)),
    known(&["chf", "franc", "swiss franc"], "chf", (1, 1)),
];
/// Bases of which the first is said where one of the others is meant.
const LOOSE: [(&str, &[&str]); 4] = [
    ("deg", &["degc", "degf"]),
    ("pound", &["gbp", "g"]),
    ("yen sign", &["jpy", "cny"]),
    ("dollar", &["usd", "aud", "cad", "hkd", "sgd", "nzd"]),
];

/// What a number counts or measures.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Nothing is said.
    None,
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

fn find(name: &str) -> Option<&'static Known> {
    let listed = |name: &str| KNOWN.iter().chain(&MONEY).find(|known| known.names.contains(&name));
    let spelled = name.replace("metre", "meter").replace("litre", "liter");
    let singular = spelled.strip_suffix('s').filter(|rest| rest.chars().count() > 1);
    listed(&spelled).or_else(|| listed(singular?))
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

fn are_loose(a: &str, b: &str) -> bool {
    LOOSE.iter().any(|(said, meant)| (*said == a && meant.contains(&b)) || (*said == b && meant.contains(&a)))
}

/// Whether words after a number leave it as it is.
fn are_plain(words: &[&str]) -> bool {
    let is_plain = |word: &&str| {
        let is_name = word.chars().all(|c| c.is_alphabetic() || "/²³-'".contains(c));
        let changes = CHANGING.split(' ').any(|changing| changing == *word)
            || word.ends_with("ths")
            || is_number_word(word)
            || scale(word).is_some();
        is_name && !changes && unit_fraction(word).is_none()
    };
    let counted = words.iter().take_while(|word| !PLACES.contains(word)).count();
    counted <= WORDS_MAX && words.len() <= 2 * WORDS_MAX && words.iter().all(is_plain)
}

/// Words of a unit in the form in which [`Unit::product`] reads them: `square meter` is `meter²`, `per` a slash.
fn phrase(lower: &str) -> String {
    let mut text =
        format!(" {} ", lower.replace("^{2}", "²").replace("^{3}", "³").replace("^2", "²").replace("^3", "³"));
    for (from, to) in [
        (" / ", "/"),
        (" per ", "/"),
        (" an hour ", "/hour "),
        ("beats/minute", "bpm"),
        ("degrees celsius", "degc"),
        ("degree celsius", "degc"),
        ("degrees centigrade", "degc"),
        ("degrees fahrenheit", "degf"),
        ("degree fahrenheit", "degf"),
        ("°c", "degc"),
        ("° c ", "degc "),
        ("°f", "degf"),
        ("° f ", "degf "),
        ("°", "deg"),
        (" sq. ", " square "),
        (" sq ", " square "),
        (" cu ", " cubic "),
        ("平方米", "m²"),
        ("立方米", "m³"),
        ("'s ", " "),
    ] {
        text = text.replace(from, to);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut written: Vec<String> = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let power = |word: &str, sign: char| {
            let (head, rest) = word.split_once('/').map_or((word, None), |(head, rest)| (head, Some(rest)));
            format!("{head}{sign}{}", rest.map_or(String::new(), |rest| format!("/{rest}")))
        };
        match (words[at], words.get(at + 1)) {
            ("square", Some(next)) => written.push(power(next, '²')),
            ("cubic", Some(next)) => written.push(power(next, '³')),
            (word, Some(&"squared")) => written.push(format!("{word}²")),
            (word, Some(&"cubed")) => written.push(format!("{word}³")),
            (word, _) => {
                written.push(word.to_owned());
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    written.join(" ")
}

/// A noun in the singular.
pub fn singular(word: &str) -> String {
    let irregular = PLURALS.iter().find(|(plural, _)| *plural == word).map(|(_, singular)| *singular);
    irregular.or_else(|| word.strip_suffix('s').filter(|rest| rest.len() > 1)).unwrap_or(word).to_owned()
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
