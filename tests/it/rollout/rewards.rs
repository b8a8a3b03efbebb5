//! Rewards of rolled-out trajectories, and the names that a recipe may give.

use std::collections::BTreeMap;

use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::reward::{Score, View};
use thyme_engine::rollout::reward_set::{RewardSet, RewardSettings, Scores};
use thyme_engine::rollout::rewards::equivalence::{Question, Verdict, judge};
use thyme_engine::rollout::trajectory::Trajectory;

use super::roll;

fn same(answer: &str, solution: &str, question: &str) -> bool {
    judge(answer, solution, &Question::read(question)) == Verdict::Same
}

/// The scores of a text that was written without tools.
pub(super) fn scores(text: &str, question: &str, solution: &str) -> Scores {
    scores_of(&roll(text), &RewardSettings::default(), question, solution)
}

pub(super) fn scores_of(trajectory: &Trajectory, settings: &RewardSettings, question: &str, solution: &str) -> Scores {
    let rewards = RewardSet::new(settings, &Registry::default()).unwrap();
    rewards.score_group(&[View::new(trajectory, question, &solution.into())]).remove(0)
}

#[test]
fn a_right_well_formed_consistent_answer_scores_two() {
    let scores = scores("<think>The plate shows 7.</think>\n<answer>7</answer>", "q", "7");
    assert_eq!(scores.total, Score::Value(2.0));
}

#[test]
fn consistency_counts_only_where_the_answer_is_right() {
    let wrong = scores("<think>The plate shows 8.</think>\n<answer>8</answer>", "q", "7");
    assert_eq!((wrong.part("consistency"), wrong.total.clone()), (Some(&Score::Value(0.0)), Score::Value(0.5)));
    let inconsistent = scores("<think>The plate shows 8.</think>\n<answer>7</answer>", "q", "7");
    assert_eq!(inconsistent.total, Score::Value(1.5));
    let announced =
        scores("<think>I see 3 and 4. So the answer is 7. Now I say it.</think>\n<answer>7</answer>", "q", "7");
    assert_eq!(announced.total, Score::Value(2.0));
    let other = scores("<think>So the answer is 8. Not 7.</think>\n<answer>7</answer>", "q", "7");
    assert_eq!(other.total, Score::Value(1.5));
    let text = scores("<think>It must be a red fox.</think>\n<answer>Red fox</answer>", "q", "red fox");
    assert_eq!(text.total, Score::Value(2.0));
    let option = scores("<think>Therefore option B fits.</think>\n<answer>(B)</answer>", "q", "B");
    assert_eq!(option.total, Score::Value(2.0));
}

#[test]
fn the_format_is_exact() {
    let format = |text| scores(text, "q", "7").part("format").cloned();
    assert_eq!(format("<think>7</think> <answer>7</answer>"), Some(Score::Value(1.0)));
    for text in [
        "<think>7</think><answer>7</answer>",
        "<think>7</think>\n\n<answer>7</answer>",
        "7</think>\n<answer>7</answer>",
        "<think><think>7</think>\n<answer>7</answer>",
        "<think>7</think>\n<answer>7",
        "<answer>7</answer>",
    ] {
        assert_eq!(format(text), Some(Score::Value(0.0)), "{text:?}");
    }
}

#[test]
fn what_observations_say_is_not_the_models_answer() {
    let text = "<think><code>text <answer>7< /answer></code> it is 8</think>\n<answer>8</answer>";
    let scores = scores(text, "q", "7");
    assert_eq!(scores.part("answer"), Some(&Score::Value(0.0)));
}

#[test]
fn prose_that_no_rule_can_judge_is_unscored() {
    let prose = "The man in the picture is holding a large red umbrella";
    let unscored = scores("<think>x</think>\n<answer>An umbrella</answer>", "q", prose);
    assert!(matches!(unscored.part("answer"), Some(Score::Unscored(_))));
    assert!(matches!(unscored.part("consistency"), Some(Score::Unscored(_))));
    assert!(matches!(unscored.total, Score::Unscored(_)));
    let missing = scores("<think>x</think>\n<answer>7</answer>", "q", "");
    assert!(matches!(missing.total, Score::Unscored(_)));
}

#[test]
fn tool_success_is_logged_and_may_be_weighted() {
    let trajectory = roll("<think><code>text 1</code><code>error x</code>7</think>\n<answer>7</answer>");
    let weighted = RewardSettings { weights: BTreeMap::from([("tool_success".to_owned(), 1.0)]), ..Default::default() };
    let of = |settings: &RewardSettings| scores_of(&trajectory, settings, "q", "7");
    let unweighted = of(&RewardSettings::default());
    assert_eq!(unweighted.part("tool_success"), Some(&Score::Value(0.5)));
    assert_eq!(of(&weighted).total.value(), unweighted.total.value().map(|total| total + 0.5));
}

#[test]
fn unknown_names_list_the_known_ones() {
    let registry = Registry::default();
    let named = |name: &str, keys: &str| (name.to_owned(), keys.parse::<toml::Table>().unwrap());
    let known = "format, answer, consistency, tool_success";
    for settings in ["weights.formt = 1.0", "settings.formt.x = 1"] {
        let settings: RewardSettings = toml::from_str(settings).unwrap();
        let message = RewardSet::new(&settings, &registry).err().unwrap().to_string();
        assert!(message.contains("\"formt\"") && message.contains(known), "{message}");
    }
    let python = || named("python", "");
    for (environment, tools, parts) in [
        (named("thinking", ""), vec![], ["\"thinking\"", "direct, think_with_code"]),
        (named("think_with_code", "max_code_run = 3"), vec![], ["max_code_run", "think_with_code"]),
        (named("think_with_code", ""), vec![named("perl", "")], ["\"perl\"", "python"]),
        (named("think_with_code", ""), vec![python(), named("crop", "")], ["calls one tool", "python, crop"]),
        (named("think_with_code", ""), vec![python(), python()], ["each tool by its name", "give each once"]),
    ] {
        let message = registry.check(&environment, &tools).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_reward_has_settings_of_its_own() {
    let trajectory = roll("<think>It is 7. The plate is somewhere at the left.</think>\n<answer>7</answer>");
    let consistency = |keys: &str| {
        let settings: RewardSettings = toml::from_str(keys).unwrap();
        scores_of(&trajectory, &settings, "q", "7").part("consistency").cloned()
    };
    assert_eq!(consistency(""), Some(Score::Value(1.0)));
    assert_eq!(consistency("settings.consistency.last_characters = 20"), Some(Score::Value(0.0)));
    let settings: RewardSettings = toml::from_str("settings.consistency.last_character = 20").unwrap();
    let message = RewardSet::new(&settings, &Registry::default()).err().unwrap().to_string();
    assert!(message.contains("\"consistency\"") && message.contains("last_characters"), "{message}");
}

#[test]
fn the_same_answer_is_known_in_every_dress() {
    for (answer, solution) in [
        ("cat", "Cat."),
        ("The answer is 7", "7"),
        ("The correct option is: B", "B"),
        ("B", "(B)"),
        ("(B) cat", "B. Cat"),
        ("1,000", "1000.0"),
        ("1000", "1,000"),
        ("50%", "0.5"),
        ("50", "50\\%"),
        ("\\frac{1}{2}", "0.5"),
        ("\\dfrac12", "1/2"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("sqrt(12)", "2√3"),
        ("2\\pi", "2π"),
        ("\\{1, 2\\}", "{2,1}"),
        ("(1, \\frac{1}{2})", "(1,0.5)"),
        ("$x = 5$", "5"),
        ("1\\frac{1}{2}", "1.5"),
        ("1 1/2", "3/2"),
        ("5 cm", "5"),
        ("-3", "−3"),
        ("90^\\circ", "90"),
        ("\\boxed{7}", "7"),
        ("2^{10}", "1024"),
        ("2, 1", "1, 2"),
        // Options.
        ("b", "B"),
        ("b) cat", "B"),
        ("(b)", "B"),
        ("B: cat", "(B)"),
        ("**B**", "B"),
        ("$\\text{(B)}$", "B"),
        ("Option B", "B"),
        ("B (cat)", "B"),
        ("B - cat", "B. cat"),
        ("B is correct.", "B"),
        // Numbers.
        ("$5.00", "5"),
        ("€5", "5"),
        ("five", "5"),
        ("5 apples", "5"),
        ("5 apples", "five apples"),
        ("1 apple", "1 apples"),
        ("about 50", "50"),
        ("≈ 3.5", "3.5"),
        ("50 percent", "50%"),
        ("50 percent", "0.5"),
        ("1,234,567", "1234567"),
        ("2 million", "2,000,000"),
        ("5k", "5000"),
        ("1.5e3", "1500"),
        ("2\\times10^3", "2000"),
        ("2 x 10^3", "2000"),
        // Units.
        ("5cm", "5 cm."),
        ("5\\text{ cm}", "5"),
        ("5 centimeters", "5 cm"),
        ("12 cm^2", "12 cm²"),
        ("12 square meters", "12"),
        ("60 km/h", "60"),
        ("20°C", "20"),
        ("45 degrees", "45°"),
        ("30 minutes", "30 min"),
        ("x = 5 cm", "5 cm"),
        // Fractions, roots, collections.
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("\\tfrac{3}{4}", "75%"),
        ("\\frac{\\sqrt{2}}{2}", "\\sqrt{2}/2"),
        ("\\sqrt3", "√3"),
        ("\\sqrt[3]{8}", "2"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("[1, 2)", "[1,2)"),
        ("(-\\infty, 3]", "(-∞,3]"),
        ("$x=5$", "x = 5"),
        ("5", "x = 5"),
        // Yes and no.
        ("Yes, it is.", "yes"),
        ("No.", "no"),
    ] {
        assert!(same(answer, solution, ""), "{answer:?} should equal {solution:?}");
    }
}

#[test]
fn other_answers_stay_other() {
    for (answer, solution) in [
        ("dog", "cat"),
        ("A", "B"),
        ("A. cat", "B. cat"),
        ("B. dog", "B. cat"),
        ("a cat", "A"),
        ("7", "8"),
        ("70", "7"),
        ("0.33", "1/3"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("5 cm", "5 m"),
        ("1,00", "100"),
        ("7 or 8", "7"),
        ("1/0", "1/0.0"),
        ("((((((((((((((((((((((((((((((((((((((1", "1"),
        ("", "7"),
        ("b", "A. cat"),
        ("A or B", "A"),
        ("A, B", "A"),
        ("A. B. C.", "A"),
        ("A) cat B) dog", "A"),
        ("(A) (B)", "A"),
        ("A B", "A"),
        ("5 million", "5"),
        ("5 or more", "5"),
        ("5 apples", "5 oranges"),
        ("5x", "5"),
        ("5 plus 3", "5"),
        ("7 eleven", "7"),
        ("1990s", "1990"),
        ("20 °C", "20 °F"),
        ("12 m/s", "12 km/h"),
        ("4 PM", "4 AM"),
        ("€5", "5 cm"),
        ("3:45", "3"),
        ("y = 5", "x = 5"),
        ("[1,2)", "(1,2)"),
        ("(-\\infty, 3]", "(\\infty, 3]"),
        ("1:2", "0.5"),
        ("twenty five", "20"),
        ("50%", "5"),
        ("Yes and no", "yes"),
        ("not 5", "5"),
        ("\\sqrt{2}", "2"),
        ("3D printing", "3"),
    ] {
        assert!(!same(answer, solution, ""), "{answer:?} should not equal {solution:?}");
    }
}

#[test]
fn an_answer_may_be_said_in_the_words_of_the_question() {
    let question = "In which year did the unemployment rate peak?";
    assert!(same("The unemployment rate peaked in 2009.", "2009", question));
    assert!(!same("The unemployment rate did not peak in 2009.", "2009", question));
    assert!(!same("The unemployment rate peaked in 2009 or 2010.", "2009", question));
    // Words of another meaning do not make a fraction a date.
    assert!(
        !same("3/4", "0.8", "What time does it take, in hours?")
            && same("3/2", "1.5", "What time does it take, in hours?")
    );
    assert!(same("\\frac{3}{2}", "3/2", "What is the room area?"));
}

#[test]
fn an_option_is_known_by_its_text_in_the_question() {
    let question = "Which animal?\nA. dog\nB. cat\nC. cow";
    assert!(same("cat", "B", question));
    assert!(same("B", "cat", question));
    // Without them `E. coli` is no `E`, unless the question speaks of options that its picture shows.
    assert!(!same("B. cat", "B", "") && same("B. cat", "B", "Choose an option."));
    assert!(same("C. Vitamin A", "C", "Which option is right?"));
    for answer in ["B", "b", "cat", "the cat", "\\boxed{B}"] {
        assert!(same(answer, "B. cat", question), "{answer}");
        assert!(!same(answer, "B. cat", ""), "without listed options {answer} may be an initial");
    }
    assert!(!same("dog", "B", question));
    assert!(same("dog", "(A)", "Which? (A) dog (B) cat"));
}
