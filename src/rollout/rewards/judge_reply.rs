//! What rewards ask the judge for: whole numbers under the keys of a JSON object.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Deserializer, Map, Value};

use crate::rollout::judge::{Judge, shortened};
use crate::tasks::{Accepted, Solution};

/// The whole number under each key of the first JSON object in the judge's reply, in the order of `keys`.
///
/// # Errors
/// When there is no judge or no reply, or the reply has no such number in `range` under a key: why.
pub(super) fn ask_for_scores<const COUNT: usize>(
    judge: Option<&Arc<dyn Judge>>,
    (system, user): (&str, &str),
    keys: [&str; COUNT],
    range: RangeInclusive<i64>,
) -> Result<[i64; COUNT], String> {
    let judge = judge.ok_or("there is no judge to ask; give reward.judge")?;
    let reply = judge.ask(system, user).map_err(|error| error.to_string())?;
    let object = first_object(&reply).unwrap_or_default();
    let mut scores = [0; COUNT];
    for (score, key) in scores.iter_mut().zip(keys) {
        *score = object.get(key).and_then(whole_number).filter(|score| range.contains(score)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("the judge gave no whole number from {least} to {most} under {key:?}: {:?}", shortened(&reply))
        })?;
    }
    Ok(scores)
}

/// The JSON object that begins with the first brace of a text.
fn first_object(text: &str) -> Option<Map<String, Value>> {
    let text = &text[text.find('{')?..];
    Deserializer::from_str(text).into_iter::<Map<String, Value>>().next()?.ok()
}

/// A number as models write it: `1`, `1.0` or `"1"`.
fn whole_number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let number = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e9)?;
            Some(number as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The reference answers in words. A pattern is none.
pub(super) fn references(solution: &Solution) -> String {
    let words = solution.accepted().iter().filter_map(|accepted| match accepted {
        Accepted::Text(text) => Some(text.clone()),
        Accepted::Number { number, .. } => Some(number.to_string()),
        Accepted::Pattern { .. } => None,
    });
    words.collect::<Vec<_>>().join(", or ")
}
