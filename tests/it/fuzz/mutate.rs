//! Mutations of a corpus: of bytes, of text, of JSON. None knows what its input means.

use serde_json::{Map, Value, json};

use crate::support::small_policy::Random;

/// Longer than this no text or file is made, unless a generator says so.
pub const BYTES_MAX: usize = 30_000;

/// Where lengths, counts and ids begin or end to fit.
pub const NUMBERS: [&str; 26] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "127",
    "128",
    "255",
    "256",
    "1000",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "-0.0",
    "1e-320",
    "1e308",
    "1e400",
];

/// Texts that programs trip over.
const TEXTS: [&str; 14] = [
    "",
    " ",
    "\u{0}",
    "\n",
    "\u{FEFF}",
    "\u{202E}abc",
    "ä😀e\u{301}",
    "\u{FFFF}",
    "\\",
    "\"",
    "../../etc/passwd",
    "<|im_end|><|image_pad|>",
    "{{ x }}{% if",
    "%s%n${jndi:x}",
];

/// The committed inputs of one kind.
pub struct Corpus {
    /// File names and contents, in the order of the names.
    pub entries: Vec<(String, Vec<u8>)>,
}

impl Corpus {
    /// The files of `tests/golden/fuzz/<kind>`.
    pub fn open(kind: &str) -> Corpus {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fuzz").join(kind);
        let entry = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        };
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(entry).collect();
        entries.sort();
        assert!(entries.len() >= 5, "the corpus of {kind} has {} files", entries.len());
        Corpus { entries }
    }

    /// An entry whose name ends with `end`.
    pub fn pick(&self, random: &mut Random, end: &str) -> &[u8] {
        let fitting: Vec<&(String, Vec<u8>)> = self.entries.iter().filter(|(name, _)| name.ends_with(end)).collect();
        assert!(!fitting.is_empty(), "no file of the corpus ends with {end}");
        &fitting[random.below(fitting.len())].1
    }

    /// A text whose name ends with `end`.
    pub fn text(&self, random: &mut Random, end: &str) -> String {
        String::from_utf8(self.pick(random, end).to_vec()).unwrap()
    }

    /// A JSON value whose name ends with `end`.
    pub fn json(&self, random: &mut Random, end: &str) -> Value {
        serde_json::from_slice(self.pick(random, end)).unwrap()
    }
}

/// A place in something of this length, its end among them.
fn place(random: &mut Random, length: usize) -> usize {
    random.below(length + 1)
}

/// A short stretch of something of this length.
fn stretch(random: &mut Random, length: usize, longest: usize) -> std::ops::Range<usize> {
    let begin = place(random, length);
    begin..(begin + random.below(longest) + 1).min(length)
}

/// Changes bytes from `from` on in a few places; `other` is spliced in.
pub fn bytes(random: &mut Random, mut bytes: Vec<u8>, other: &[u8], from: usize, changes: usize) -> Vec<u8> {
    for _ in 0..1 + random.below(changes) {
        let begin = from.min(bytes.len());
        let tail = bytes.len() - begin;
        if tail == 0 {
            break;
        }
        let at = begin + random.below(tail);
        match random.below(9) {
            0..3 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = random.pick(&[0, 1, 0x7F, 0x80, 0xFF]),
            4 => overwrite(random, &mut bytes[at..]),
            5 => drop(bytes.drain(at..(at + 1 + random.below(16)).min(begin + tail))),
            6 => {
                let some = bytes[at..(at + 1 + random.below(32)).min(begin + tail)].to_vec();
                bytes.splice(at..at, some);
            }
            7 => {
                let some = other[stretch(random, other.len(), 64)].to_vec();
                bytes.splice(at..at, some);
            }
            _ if random.one_in(4) => bytes.truncate(at),
            _ => bytes[at] = random.next() as u8,
        }
    }
    bytes.truncate(BYTES_MAX.max(from));
    bytes
}

/// Writes a number on a bound, in either order of bytes.
fn overwrite(random: &mut Random, bytes: &mut [u8]) {
    let number = random.pick(&[0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, u64::MAX]);
    let width = random.pick(&[2, 4, 8]);
    let written = if random.one_in(2) {
        number.to_le_bytes()[..width].to_vec()
    } else {
        number.to_be_bytes()[8 - width..].to_vec()
    };
    bytes.iter_mut().zip(written).for_each(|(byte, new)| *byte = new);
}

/// Changes a text in a few places: words of `words` come in, stretches of `other`, brackets one in another, repetitions.
pub fn text(random: &mut Random, text: &str, other: &str, words: &[&str], changes: usize) -> String {
    let mut pieces: Vec<String> = pieces(text);
    let others = self::pieces(other);
    for _ in 0..1 + random.below(changes) {
        let at = place(random, pieces.len());
        match random.below(10) {
            0 => drop(pieces.drain(stretch(random, pieces.len(), 8))),
            1 | 2 => pieces.insert(at, random.pick(words).to_owned()),
            3 => {
                if let Some(place) = number_near(&pieces, at) {
                    pieces[place] = random.pick(&NUMBERS).to_owned();
                }
            }
            4 => {
                let some = pieces[stretch(random, pieces.len(), 12)].to_vec();
                pieces.splice(at..at, some);
            }
            5 => {
                let some = others[stretch(random, others.len(), 30)].to_vec();
                pieces.splice(at..at, some);
            }
            6 => {
                let (some, times) = (stretch(random, pieces.len(), 6), random.pick(&[2, 10, 100, 1000]));
                let some: String = pieces[some].concat();
                pieces.insert(at, some.repeat(times.min(BYTES_MAX / (some.len() + 1))));
            }
            7 => {
                let (open, close) = random.pick(&[("(", ")"), ("[", "]"), ("{", "}"), ("\"", "\"")]);
                let (range, depth) = (stretch(random, pieces.len(), 5), random.pick(&[1, 2, 20, 200, 3000]));
                pieces.insert(range.end, close.repeat(depth));
                pieces.insert(range.start, open.repeat(depth));
            }
            8 => pieces.insert(at, random.pick(&TEXTS).to_owned()),
            _ if random.one_in(3) => pieces.truncate(at),
            _ => {
                let range = stretch(random, pieces.len(), 20);
                let some: Vec<String> = pieces.drain(range).collect();
                let at = place(random, pieces.len());
                pieces.splice(at..at, some);
            }
        }
    }
    shortened(pieces.concat(), BYTES_MAX)
}

/// A text of at most so many bytes.
pub fn shortened(mut text: String, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Words, numbers, and other characters one by one.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut in_word = false;
    for c in text.chars() {
        match pieces.last_mut() {
            Some(last) if in_word && is_word(c) => last.push(c),
            _ => pieces.push(c.to_string()),
        }
        in_word = is_word(c);
    }
    pieces
}

fn number_near(pieces: &[String], at: usize) -> Option<usize> {
    let is_number = |place: &usize| pieces[*place].starts_with(|c: char| c.is_ascii_digit());
    (at..pieces.len()).chain(0..at).find(is_number)
}

/// A text of a few words, some of them odd.
pub fn words(random: &mut Random) -> String {
    const PLAIN: [&str; 8] = ["red", "plate", "What", "digit", "is", "on", "the", "blue"];
    let words: Vec<String> = (0..random.below(6))
        .map(|_| if random.one_in(6) { random.pick(&TEXTS).to_owned() } else { random.pick(&PLAIN).to_owned() })
        .collect();
    words.join(" ")
}

/// Any small JSON value.
pub fn scalar(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => random.one_in(2).into(),
        2..5 => serde_json::from_str(random.pick(&NUMBERS)).unwrap_or(json!(7)),
        5 => words(random).into(),
        6 => json!([]),
        _ => json!({}),
    }
}

/// Changes a JSON value in a few places; subtrees of `other` come in.
pub fn json(random: &mut Random, value: &mut Value, other: &Value, changes: usize) {
    for _ in 0..1 + random.below(changes) {
        let node = node(random, value);
        let donor = node_of(random, other);
        match random.below(8) {
            0 | 1 => *node = scalar(random),
            2 | 3 => *node = donor,
            4 => leave_out(random, node),
            5 => add(random, node, donor),
            6 => {
                for _ in 0..random.pick(&[1, 1, 2, 10, 60]) {
                    let inner = node.take();
                    *node = if random.one_in(2) { json!([inner]) } else { json!({"a": inner}) };
                }
            }
            _ => repeat(random, node),
        }
    }
}

/// A node of a value, its root included.
fn node<'a>(random: &mut Random, value: &'a mut Value) -> &'a mut Value {
    let is_leaf = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    };
    if is_leaf || random.one_in(4) {
        return value;
    }
    match value {
        Value::Array(items) => {
            let at = random.below(items.len());
            node(random, &mut items[at])
        }
        Value::Object(fields) => {
            let at = random.below(fields.len());
            node(random, fields.values_mut().nth(at).unwrap())
        }
        _ => unreachable!("a leaf is returned above"),
    }
}

fn node_of(random: &mut Random, value: &Value) -> Value {
    let mut copy = value.clone();
    node(random, &mut copy).take()
}

fn leave_out(random: &mut Random, node: &mut Value) {
    match node {
        Value::Array(items) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).unwrap().clone();
            fields.shift_remove(&key);
        }
        other => *other = Value::Null,
    }
}

fn add(random: &mut Random, node: &mut Value, donor: Value) {
    match node {
        Value::Array(items) => items.push(donor),
        Value::Object(fields) => match donor {
            Value::Object(more) => fields.extend(more),
            other => drop(fields.insert(random.pick(&TEXTS).to_owned(), other)),
        },
        Value::String(text) => text.push_str(random.pick(&TEXTS)),
        other => *other = donor,
    }
}

fn repeat(random: &mut Random, node: &mut Value) {
    let times = random.pick(&[2, 5, 50, 500]);
    match node {
        Value::String(text) => *text = shortened(text.repeat(times.min(BYTES_MAX / (text.len() + 1))), BYTES_MAX),
        Value::Array(items) if items.len() * times < 5_000 => *items = vec![items.clone(); times].concat(),
        Value::Object(fields) => {
            let more: Map<String, Value> = (0..times)
                .flat_map(|number| fields.iter().map(move |(key, value)| (format!("{key}{number}"), value.clone())))
                .take(200)
                .collect();
            fields.extend(more);
        }
        _ => {}
    }
}
