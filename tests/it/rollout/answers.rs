//! The answer reward beside pairs that people judged, and beside pairs that are right or wrong by how they are made.

use std::path::Path;

use thyme_engine::eval::predictions::score_lines;
use thyme_engine::files::lines::{JsonLines, LineBounds};
use thyme_engine::ops::sample::philox_uniform;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::Score;
use thyme_engine::rollout::reward_set::RewardSet;
use thyme_engine::rollout::rewards::answer::fits;
use thyme_engine::rollout::rewards::equivalence::{Question, Verdict, judge};
use thyme_engine::tasks::Solution;

use super::rewards::scores;

/// Pairs of answers, each with whether it is right and with math-verify's verdict; `tools/golden/answers.py` adds the latter.
const PAIRS: &str = include_str!("../../golden/rewards/answers.jsonl");

fn verdict(answer: &str, solution: &str, question: &str) -> Verdict {
    judge(answer, solution, &Question::read(question))
}

#[test]
fn every_judged_pair_scores_as_it_was_judged() {
    let pairs = JsonLines::of_reader(Path::new("answers.jsonl"), PAIRS.as_bytes(), LineBounds::INPUT);
    let (scored, _) = score_lines(pairs, &RewardSet::answer_only(&Registry::default()).unwrap()).unwrap();
    let mut faults = Vec::new();
    for line in scored.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let score = line["scores"]["answer"].as_f64();
        let is_right = line["right"] == 1;
        if is_right != (score == Some(1.0)) {
            faults.push(format!("{}: {score:?}, {}", line["right"], line));
        }
    }
    assert!(scored.lines().count() >= 400, "the pairs were not found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Random draws by number.
struct Draws {
    seed: u64,
    count: u64,
}

impl Draws {
    /// A number from `low` to `high`, both included.
    fn from(&mut self, low: u64, high: u64) -> u64 {
        self.count += 1;
        let uniform = philox_uniform(self.seed, self.count, 0);
        low + ((uniform * (high - low + 1) as f64) as u64).min(high - low)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.from(0, of.len() as u64 - 1) as usize]
    }
}

/// The name of a number below 10,000.
fn spoken(number: u64) -> String {
    const SMALL: [&str; 20] = [
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
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let behind = |rest: u64, word: &str| if rest == 0 { String::new() } else { format!("{word}{}", spoken(rest)) };
    match number {
        0..20 => SMALL[number as usize].to_owned(),
        20..100 => format!("{}{}", TENS[number as usize / 10 - 2], behind(number % 10, "-")),
        100..1000 => format!("{} hundred{}", SMALL[number as usize / 100], behind(number % 100, " and ")),
        _ => format!("{} thousand{}", spoken(number / 1000), behind(number % 1000, " ")),
    }
}

fn full_width(text: &str) -> String {
    text.chars()
        .map(|c| if ('!'..='~').contains(&c) { char::from_u32(c as u32 + 0xFEE0).unwrap() } else { c })
        .collect()
}

/// A pair, its question, and whether it is right.
type Pair = (String, String, String, bool);

/// Pairs of one kind; each is right or wrong by how it is made.
fn pairs_of(kind: usize, draws: &mut Draws) -> Vec<Pair> {
    let pair =
        |answer: String, solution: String, question: &str, right: bool| (answer, solution, question.to_owned(), right);
    let (a, b) = (draws.from(2, 40), draws.from(2, 40));
    let shift = draws.from(1, 5);
    match kind {
        // Dates.
        0 => {
            let (year, month, day) = (draws.from(1990, 2030), draws.from(1, 12), draws.from(1, 28));
            let names = [
                "January",
                "February",
                "March",
                "April",
                "May",
                "June",
                "July",
                "August",
                "September",
                "October",
                "November",
                "December",
            ];
            let name = names[month as usize - 1];
            let question = draws.one(&["", "What date is printed?"]);
            let iso = format!("{year}-{month:02}-{day:02}");
            vec![
                pair(format!("{name} {day}, {year}"), iso.clone(), question, true),
                pair(format!("{day} {} {year}", &name[..3]), iso.clone(), question, true),
                pair(format!("{year}-{month:02}-{:02}", day % 28 + 1), iso.clone(), question, false),
                pair(format!("{}-{:02}-{day:02}", year + 1, month + 1), iso, question, false),
                pair(format!("{month}/{day}/{year}"), format!("{}/{day}/{year}", month % 12 + 1), question, false),
            ]
        }
        // Ranges, scores, sizes: the difference or the product alone is not enough.
        1 => {
            let question = draws.one(&["", "What age range is printed?", "What is the final score?"]);
            vec![
                pair(format!("{a}-{}", a + b), format!("{a} to {}", a + b), question, true),
                pair(format!("{a}–{}", a + b), format!("{a} - {}", a + b), question, true),
                pair(format!("{}-{}", a + shift, a + b + shift), format!("{a}-{}", a + b), question, false),
                pair(format!("{b}"), format!("{}-{a}", a + b), question, false),
                pair(format!("-{b}"), format!("{a}-{}", a + b), question, false),
            ]
        }
        2 => vec![
            pair(format!("{a}×{b}"), format!("{a} x {b}"), "What size?", true),
            pair(format!("{a} by {b}"), format!("{a}×{b}"), "", true),
            pair(format!("{}", a * b), format!("{a}×{b}"), "", false),
            pair(format!("{}×{b}", 2 * a), format!("{a}×{}", 2 * b), "What size?", false),
            pair(format!("{a}×{}", b + a), format!("{}×{a}", b + a), "", false),
        ],
        // Phone numbers and codes.
        3 => {
            let (x, y) = (draws.from(200, 999), draws.from(1000, 9999));
            let letter = draws.one(&["A", "K", "X"]);
            vec![
                pair(format!("{x}-{y}"), format!("{x} {y}"), "Which phone number?", true),
                pair(format!("{x}{y}"), format!("{x}-{y}"), "", true),
                pair(format!("{x}-{}", y % 9000 + 1000), format!("{x}-{}", (y + 1) % 9000 + 1000), "", false),
                pair(format!("{}", x as i64 - y as i64), format!("{x}-{y}"), "", false),
                pair(format!("{letter}{a}-{b}"), format!("{letter}{a}-{}", b + 1), "Which code?", false),
                pair(format!("{a}.{b}0"), format!("{a}.{b}"), "Which version is installed?", false),
            ]
        }
        // Integers are compared exactly, reals by value.
        4 => {
            let large = 1_000_000_000 + draws.from(0, 8_000_000_000);
            vec![
                pair(format!("{large}"), format!("{}", large + 1), "", false),
                pair(format!("{large}.0"), format!("{large}"), "", true),
                pair(format!("{}.{b:02}0", a), format!("{a}.{b:02}"), "", true),
                pair(format!("{}", a as f64 / 7.0), format!("{a}/7"), "", a % 7 == 0),
            ]
        }
        // Commas in brackets.
        5 => {
            let (x, y) = (draws.from(100, 999), draws.from(100, 999));
            vec![
                pair(format!("({x},{y})"), format!("({x}, {y})"), "", true),
                pair(format!("[{x},{y},{a},{b}]"), format!("[{x}, {y}, {a}, {b}]"), "", true),
                pair(format!("({x},{y})"), format!("{x}{y}"), "", false),
                pair(format!("{a},{x}"), format!("{a}{x}"), "", true),
                pair(format!("({x},{y})"), format!("({},{y})", x + 1), "", false),
                pair(format!("({x}, {y})"), format!("({y}, {x})"), "Which point?", x == y),
            ]
        }
        // Orders.
        6 => {
            let question = "List the numbers from left to right.";
            let c = 50 + shift;
            vec![
                pair(format!("{a}, {c}"), format!("{c}, {a}"), "", true),
                pair(format!("{a}, {c}"), format!("{c}, {a}"), question, false),
                pair(format!("{a} and {c}"), format!("{a}, {c}"), question, true),
                pair("red, blue, green".into(), "blue, red, green".into(), "", false),
                pair("red, blue and green".into(), "red, blue, green".into(), "", true),
            ]
        }
        // Options.
        7 => {
            let animals = ["dog", "cat", "brown cow", "red fox"];
            let layout = draws.from(0, 2);
            let option = |(letter, text): (char, &str)| match layout {
                0 => format!("{letter}. {text}\n"),
                1 => format!("({letter}) {text} "),
                _ => format!("{letter}: {text}\n"),
            };
            let question = format!("Which animal?\n{}", "ABCD".chars().zip(animals).map(option).collect::<String>());
            let right = draws.from(0, 3) as usize;
            let (letter, text) = (char::from(b'A' + right as u8), animals[right]);
            let wrong = char::from(b'A' + ((right + shift as usize % 3 + 1) % 4) as u8);
            let forms = |letter: char, text: &str| {
                vec![
                    format!("{letter}"),
                    format!("({letter})"),
                    format!("[{letter}]"),
                    format!("{letter}. {text}"),
                    format!("{letter} {text}"),
                    format!("{letter}, {text}"),
                    format!("{letter}) {text}"),
                    format!("**{letter}**. {text}"),
                    format!("（{letter}）"),
                    format!("The correct choice is {letter}"),
                    format!("So the answer is ({letter})."),
                    format!("\\boxed{{{letter}}}"),
                    format!("the {text}"),
                ]
            };
            let wrong_text = animals[(wrong as u8 - b'A') as usize];
            let mut pairs: Vec<Pair> =
                forms(letter, text).into_iter().map(|form| pair(form, letter.to_string(), &question, true)).collect();
            pairs.extend(
                forms(wrong, wrong_text).into_iter().map(|form| pair(form, letter.to_string(), &question, false)),
            );
            pairs.push(pair(format!("{letter} or {wrong}"), letter.to_string(), &question, false));
            pairs.push(pair(format!("{wrong}, {letter}"), format!("{letter}, {wrong}"), &question, true));
            pairs.push(pair(format!("{wrong}{letter}"), letter.to_string(), &question, false));
            pairs
        }
        // Units, currencies, words.
        8 => {
            let unit =
                [("cm", "centimeters"), ("km/h", "kilometers per hour"), ("kg", "kilograms"), ("m^2", "square meters")];
            let (symbol, name) = unit[draws.from(0, 3) as usize];
            vec![
                pair(format!("{a} {symbol}"), format!("{a} {name}"), "", true),
                pair(format!("{a}"), format!("{a} {symbol}"), "", true),
                pair(format!("{a} {symbol}"), format!("{} {name}", a + 1), "", false),
                pair(format!("{a} mg"), format!("{a} g"), "", false),
                pair(format!("${a}.50"), format!("{a}.5 dollars"), "", true),
                pair(format!("€{a}"), format!("{a} USD"), "", false),
                pair(format!("{a}k"), format!("{},000", a), "", true),
                pair(format!("{a} million"), format!("{a}"), "", false),
                pair(format!("{a} percent"), format!("{a}%"), "", true),
            ]
        }
        9 => {
            let number = draws.from(0, 9999);
            vec![
                pair(spoken(number), number.to_string(), "", true),
                pair(spoken(number), (number + 1).to_string(), "", false),
                pair(full_width(&number.to_string()), number.to_string(), "", true),
                pair(format!("{a}½"), format!("{a}.5"), "", true),
                pair(format!("{a} is wrong"), a.to_string(), "", false),
                pair(format!("not {a}"), a.to_string(), "", false),
                pair(format!("{a} or {}", a + 1), a.to_string(), "", false),
                pair(format!("There are {a} people in the picture."), a.to_string(), "", true),
            ]
        }
        // Formulas.
        10 => vec![
            pair(format!("(x+{a})(x+{b})"), format!("x^2+{}x+{}", a + b, a * b), "", true),
            pair(format!("x^{{2}} + {}x + {}", a + b, a * b), format!("(x+{a})(x+{b})"), "", true),
            pair(format!("(x+{a})(x+{b})"), format!("x^2+{}x+{}", a + b, a * b + 1), "", false),
            pair(format!("\\frac{{{a}}}{{{b}}}"), format!("{}/{}", 2 * a, 2 * b), "", true),
            pair(format!("{a}\\sqrt{{{b}}}"), format!("\\sqrt{{{}}}", a * a * b), "", true),
            pair(format!("{a} < x \\le {}", a + b), format!("({a}, {}]", a + b), "", true),
            pair(format!("x={a}, y={b}"), format!("({a},{b})"), "", true),
            pair(format!("{a}={b}"), a.to_string(), "", a == b),
        ],
        // Times.
        _ => {
            let (hour, minute) = (draws.from(1, 11), draws.from(10, 58));
            vec![
                pair(format!("{hour}:{minute} PM"), format!("{}:{minute}", hour + 12), "What time?", true),
                pair(format!("{hour:02}:{minute}"), format!("{hour}:{minute}"), "", true),
                pair(format!("{hour}:{minute}"), format!("{hour}:{}", minute + 1), "What time?", false),
                pair(format!("{hour}:{minute} AM"), format!("{hour}:{minute} PM"), "", false),
            ]
        }
    }
}

#[test]
fn pairs_that_are_made_right_or_wrong_are_judged_so() {
    let mut draws = Draws { seed: 13, count: 0 };
    let (mut faults, mut count) = (Vec::new(), 0);
    for _ in 0..40 {
        for kind in 0..12 {
            for (answer, solution, question, right) in pairs_of(kind, &mut draws) {
                let verdict = verdict(&answer, &solution, &question);
                if right != (verdict == Verdict::Same) {
                    faults.push(format!("{answer:?} for {solution:?} ({question:?}): {verdict:?}"));
                }
                count += 1;
            }
        }
    }
    assert!(count > 3000 && faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn one_of_several_reference_answers_is_enough() {
    let solution = |json: serde_json::Value| Solution::read(&json).unwrap();
    let several = solution(serde_json::json!(["dog", "puppy", {"regex": "(?i)hounds?"}]));
    for (answer, expected) in [("Puppy.", Verdict::Same), ("Hound", Verdict::Same), ("cat", Verdict::Different)] {
        assert_eq!(fits(answer, &several, ""), expected, "{answer}");
    }
    let near = solution(serde_json::json!({"number": 9.8, "tolerance": 0.05}));
    for (answer, expected) in [
        ("9.81 m/s²", Verdict::Same),
        ("about 9.75", Verdict::Same),
        ("9.9", Verdict::Different),
        ("10", Verdict::Different),
    ] {
        assert_eq!(fits(answer, &near, ""), expected, "{answer}");
    }
    let share = solution(serde_json::json!({"number": 200, "relative_tolerance": 0.05}));
    assert_eq!(fits("209", &share, ""), Verdict::Same);
    assert_eq!(fits("211", &share, ""), Verdict::Different);
    assert!(matches!(fits("many", &share, ""), Verdict::Unknown(_)));
}

#[test]
fn an_answers_tag_may_be_spoken_of_before_it_is_opened() {
    let text = "<think>I put it in <answer> tags.</think>\n<answer>7</answer>";
    assert_eq!(scores(text, "q", "7").part("answer"), Some(&Score::Value(1.0)));
    let nested = "<think>x</think>\n<answer><answer>7</answer>";
    assert_eq!(scores(nested, "q", "7").part("answer"), Some(&Score::Value(1.0)));
}

#[test]
fn a_conclusion_names_the_answer_or_its_option_and_does_not_deny_it() {
    let question = "Which animal?\nA. dog\nB. cat\nC. cow";
    for (thought, answer, solution, question, consistent) in [
        ("The animal is clearly a cat.", "B", "B", question, true),
        ("So it must be option B.", "cat", "B", question, true),
        ("I see a tail. Therefore (B) is correct.", "B. cat", "B", question, true),
        ("It is not a cat.", "B", "B", question, false),
        ("The animal is a dog.", "B", "B", question, false),
        ("A cat sits there.", "A", "A", question, false),
        ("It is either a dog or a cat.", "B", "B", question, false),
        ("It is not a dog but a cat.", "B", "B", question, true),
        ("It is a cat, not a dog.", "B", "B", question, true),
        ("It is a dog rather than a cat.", "B", "B", question, false),
        ("So the answer is not 7.", "7", "7", "", false),
        ("So the answer isn't 7.", "7", "7", "", false),
        ("The number cannot be 7.", "7", "7", "", false),
        ("7 is wrong.", "7", "7", "", false),
        ("The plate shows 7.", "7", "7", "", true),
        ("So the answer is 7, not 8.", "7", "7", "", true),
        ("So the answer is 8, not 7.", "7", "7", "", false),
        ("There are seven people.", "7", "7", "", true),
        ("I counted 7 at first, but there are 8.", "7", "7", "", false),
        ("3+4=7, plus one is 8.", "7", "7", "", false),
        ("7? No, 8.", "7", "7", "", false),
        ("It shows 7 on line 3.", "7", "7", "", true),
        ("There are more than 7.", "7", "7", "", false),
        ("I doubt that it is 7.", "7", "7", "", false),
        ("Is it a dog? No, it is a cat.", "B", "B", question, true),
        ("At first I thought of a cat, but it is a dog.", "B", "B", question, false),
        ("I can rule out B.", "B", "B", question, false),
        ("The answer is B? No, it must be A.", "B", "B", question, false),
        ("因此选B。", "B", "B", question, true),
        ("So A and C are right.", "A, C", "A, C", question, true),
        ("It costs five euros.", "€5", "5 euros", "", true),
    ] {
        let text = format!("<think>{thought}</think>\n<answer>{answer}</answer>");
        let scores = scores(&text, question, solution);
        assert_eq!(scores.part("answer"), Some(&Score::Value(1.0)), "{answer} for {solution}");
        assert_eq!(scores.part("consistency"), Some(&Score::of(consistent)), "{thought} with {answer}");
    }
}

#[test]
fn text_of_any_kind_and_length_is_judged_quickly() {
    let long = |piece: &str| piece.repeat(1_000_000 / piece.len());
    let began = std::time::Instant::now();
    for piece in
        ["7", "a ", "(", "{", "\\frac{", "|", "-", "1,", "<answer>", "½", "\u{200b}", "A. ", "**", "$", "²", " is "]
    {
        let text = long(piece);
        for (answer, solution, question) in [(&*text, "7", ""), ("7", &*text, ""), ("B", "B", &*text)] {
            let _ = verdict(answer, solution, question);
        }
    }
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}

/// Signs that are easily cut in two, or mean something to a rule.
const ODD: [&str; 40] = [
    "²",
    "½",
    "ß",
    "İ",
    "ﬁ",
    "\u{338}",
    "≠",
    "°",
    "–",
    "一",
    "万",
    "^{",
    "}",
    "{",
    "\\frac",
    "\\boxed{",
    "**",
    "__",
    "<answer>",
    "</answer>",
    "#### ",
    "(",
    ")",
    ",",
    "  ",
    "\n",
    "\u{200b}",
    "①",
    "٣",
    "1e400",
    "±",
    "|",
    "~",
    "$",
    "€",
    " or ",
    " per ",
    "x=",
    "≤",
    "🙂",
];

#[test]
fn no_mixture_of_pieces_ends_a_run() {
    let texts: Vec<String> = PAIRS
        .lines()
        .flat_map(|line| {
            let pair: serde_json::Value = serde_json::from_str(line).unwrap();
            ["answer", "solution", "question"].map(|key| pair[key].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    let mut draws = Draws { seed: 29, count: 0 };
    let mixture = |draws: &mut Draws| {
        let mut mixture = String::new();
        for _ in 0..draws.from(1, 5) {
            let text: Vec<char> = texts[draws.from(0, texts.len() as u64 - 1) as usize].chars().collect();
            let start = draws.from(0, text.len() as u64) as usize;
            let end = (start + draws.from(0, 40) as usize).min(text.len());
            mixture.extend(&text[start..end]);
            mixture.push_str(draws.one(&ODD));
        }
        mixture
    };
    for _ in 0..4000 {
        let [thought, answer, solution, question] = std::array::from_fn(|_| mixture(&mut draws));
        let _ = verdict(&answer, &solution, &question);
        let _ = scores(&format!("<think>{thought}</think>\n<answer>{answer}</answer>"), &question, &answer);
    }
}
