//! What became of the calls of each tool.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::figures::{Spread, entropy, figure};
use crate::rollout::tool::CallStatus;
use crate::rollout::trajectory::Call;

/// The name under which calls stand that no tool ran: malformed ones, and those of a tool that does not exist. A model that invents names
/// makes no more.
pub const NO_TOOL: &str = "none";

/// What became of the calls of one tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ToolReport {
    /// The tool's name, or [`NO_TOOL`].
    pub tool: String,
    /// How many there were.
    pub calls: usize,
    /// Their share of the calls of all tools.
    pub share: f64,
    /// How many ended in each way, by the name of the status; `ok` is always there.
    pub statuses: BTreeMap<&'static str, usize>,
    /// Mean time of those that ran; NaN where none did.
    pub seconds: f64,
    /// The longest time of those that ran; NaN where none did.
    pub seconds_max: f64,
    /// How many had each repair, by its name.
    pub repairs: BTreeMap<String, usize>,
}

impl ToolReport {
    /// One for each tool that ran, by name, and one for the calls that none ran.
    pub fn of_calls<'a>(calls: impl Iterator<Item = &'a Call>) -> Vec<ToolReport> {
        let mut by_name: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            by_name.entry(&call.tool).or_default().push(call);
        }
        let mut by_tool: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for (name, calls) in by_name {
            let is_tool = calls.iter().any(|call| has_run(call));
            by_tool.entry(if is_tool { name } else { NO_TOOL }).or_default().extend(calls);
        }
        let all: usize = by_tool.values().map(Vec::len).sum();
        by_tool.into_iter().map(|(tool, calls)| Self::of_tool(tool, &calls, all)).collect()
    }

    fn of_tool(tool: &str, calls: &[&Call], all: usize) -> ToolReport {
        let mut statuses = BTreeMap::from([(CallStatus::Ok.name(), 0)]);
        let mut repairs = BTreeMap::new();
        for call in calls {
            *statuses.entry(call.output.status.name()).or_default() += 1;
            for repair in &call.output.repairs {
                *repairs.entry(repair.clone()).or_default() += 1;
            }
        }
        let times: Vec<f64> = calls.iter().filter(|call| has_run(call)).map(|call| call.output.seconds).collect();
        let Spread { mean: seconds, max: seconds_max, .. } = Spread::of(&times);
        let share = calls.len() as f64 / all as f64;
        ToolReport { tool: tool.to_owned(), calls: calls.len(), share, statuses, seconds, seconds_max, repairs }
    }
}

/// How evenly calls are spread over the tools that ran: how many tools there are, and the entropy of the calls' shares in nats, NaN without a
/// call. Calls that no tool ran count in neither.
pub fn diversity(tools: &[ToolReport]) -> (usize, f64) {
    let calls: Vec<usize> = tools.iter().filter(|tool| tool.tool != NO_TOOL).map(|tool| tool.calls).collect();
    (calls.len(), entropy(&calls))
}

/// Whether a tool ran a call. One that a tool refused took it some time, one of an unknown tool took none.
fn has_run(call: &Call) -> bool {
    let has_result = matches!(call.output.status, CallStatus::Ok | CallStatus::Error | CallStatus::Timeout);
    has_result || call.output.seconds > 0.0
}

/// A row of the table that a person reads: calls, how many were right, mean and longest time, and the failures.
impl fmt::Display for ToolReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ok = self.statuses[CallStatus::Ok.name()];
        let [mean, longest] = [self.seconds, self.seconds_max].map(figure);
        let name = format!("tool {}", self.tool);
        write!(f, "{name:<16} {:>7}{ok:>8}{mean:>10}{longest:>8}", self.calls)?;
        for (status, count) in self.statuses.iter().filter(|(status, _)| **status != CallStatus::Ok.name()) {
            write!(f, "  {status} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tool::ToolOutput;

    fn call(tool: &str, status: CallStatus, seconds: f64, repairs: &[&str]) -> Call {
        let repairs = repairs.iter().map(|repair| (*repair).to_owned()).collect();
        let output = ToolOutput { seconds, repairs, ..ToolOutput::text(status, "") };
        Call { tool: tool.to_owned(), request: String::new(), output, images_shown: 0 }
    }

    #[test]
    fn each_tool_has_its_calls_and_times_and_names_that_a_model_invents_are_one() {
        let calls = [
            call("zoom", CallStatus::Ok, 0.5, &["fence", "trailing_comma"]),
            call("python", CallStatus::Denied, 0.25, &[]),
            call("zoom", CallStatus::Timeout, 2.0, &["fence"]),
            call("zoom", CallStatus::OverLimit, 0.0, &[]),
            call("zoom", CallStatus::Error, 0.0, &[]),
            call("zooom", CallStatus::Denied, 0.0, &[]),
            call("zo", CallStatus::Denied, 0.0, &[]),
            call("", CallStatus::Malformed, 0.0, &[]),
        ];
        let found = ToolReport::of_calls(calls.iter());
        assert_eq!(found.iter().map(|tool| tool.tool.as_str()).collect::<Vec<_>>(), [NO_TOOL, "python", "zoom"]);
        let [none, python, zoom] = &found[..] else { unreachable!() };
        assert_eq!([none.share, python.share, zoom.share], [3.0 / 8.0, 1.0 / 8.0, 0.5]);
        let (distinct, entropy) = diversity(&found);
        let wanted = -0.8 * 0.8f64.ln() - 0.2 * 0.2f64.ln();
        assert!(distinct == 2 && (entropy - wanted).abs() < 1e-12, "what no tool ran is no tool: {distinct} {entropy}");
        assert_eq!((none.calls, &none.statuses), (3, &BTreeMap::from([("ok", 0), ("denied", 2), ("malformed", 1)])));
        assert!(none.seconds.is_nan() && none.seconds_max.is_nan());
        assert_eq!((python.calls, python.seconds, python.seconds_max), (1, 0.25, 0.25));
        let statuses = BTreeMap::from([("ok", 1), ("timeout", 1), ("over_limit", 1), ("error", 1)]);
        assert_eq!((zoom.calls, &zoom.statuses), (4, &statuses));
        assert_eq!((zoom.seconds, zoom.seconds_max), (2.5 / 3.0, 2.0), "what did not run took no time");
        assert_eq!(zoom.repairs, BTreeMap::from([("fence".to_owned(), 2), ("trailing_comma".to_owned(), 1)]));
        let row = zoom.to_string();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..6], ["tool", "zoom", "4", "1", "0.833", "2.000"]);
        assert_eq!(words[6..], ["error", "1", "over_limit", "1", "timeout", "1"]);
    }

    #[test]
    fn statuses_have_their_names_in_json() {
        for status in CallStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }
}
