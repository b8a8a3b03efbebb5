//! The words after a number: in the form in which units are read, in the singular, and whether they leave the number as it is.

use super::super::number::{is_number_word, scale, unit_fraction};

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
pub(super) const PLACES: [&str; 11] =
    ["in", "on", "at", "from", "near", "with", "visible", "shown", "total", "altogether", "overall"];
/// Plurals that have another form than an `s`.
pub(super) const PLURALS: [(&str, &str); 14] = [
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

/// Whether words after a number leave it as it is.
pub(super) fn are_plain(words: &[&str]) -> bool {
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

/// Words of a unit in the form in which [`super::Unit::product`] reads them: `square meter` is `meter²`, `per` a slash.
pub(super) fn phrase(lower: &str) -> String {
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
