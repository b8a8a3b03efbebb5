//! Warnings of a run that goes wrong in a way that its metrics show. Each is said once when it begins to hold, and again only after it has
//! ceased to.

/// The metrics that warnings are made from.
pub const WATCHED: [&str; 6] = ["reward", "accuracy", "tool_use", "completions/max_length", "entropy", "kl"];

/// Lines of metrics that are averaged: one alone may be chance.
const RECENT: usize = 3;
/// Tool use has collapsed below this part of its height, where it ever was as high as the second.
const TOOL_USE_LEFT: f64 = 1.0 / 3.0;
const TOOL_USE_MIN: f64 = 0.1;
/// Entropy has collapsed below this part of what it began with, where fewer answers than the second are right: a policy that is always right
/// need not be uncertain. Entropy is what reward is bought with (Cui et al. 2025, arXiv 2505.22617).
const ENTROPY_LEFT: f64 = 0.1;
const ACCURACY_ENOUGH: f64 = 0.9;
/// Lines of metrics of each of two halves, between which the reward rises and the accuracy falls by more than the second.
const HALF: usize = 10;
const APART: f64 = 0.05;

/// A line of metrics.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    reward: f64,
    accuracy: f64,
    /// NaN where no token was sampled.
    tool_use: f64,
    entropy: f64,
    kl: f64,
}

/// Watches the lines of metrics of a run.
#[derive(Debug)]
pub struct Warnings {
    /// The KL divergence above which is warned; 0 for never.
    kl_max: f64,
    lines: Vec<Line>,
    /// Which of the conditions hold.
    holds: [bool; 4],
}

impl Warnings {
    /// For a run whose KL divergence should stay below `kl_max` nats a token; 0 lets it go anywhere.
    pub fn new(kl_max: f64) -> Warnings {
        Warnings { kl_max, lines: Vec::new(), holds: [false; 4] }
    }

    /// Takes in a line, the values of [`WATCHED`], and returns the warnings that begin with it.
    pub fn look(&mut self, [reward, accuracy, tool_use, longest, entropy, kl]: [f64; 6]) -> Vec<String> {
        let tool_use = if longest > 0.0 { tool_use } else { f64::NAN };
        self.lines.push(Line { reward, accuracy, tool_use, entropy, kl });
        let found = [self.tool_use_collapse(), self.kl_out_of_band(), self.entropy_collapse(), self.reward_alone()];
        let mut begun = Vec::new();
        for (held, found) in self.holds.iter_mut().zip(found) {
            let begins = !*held && found.is_some();
            *held = found.is_some();
            begun.extend(found.filter(|_| begins));
        }
        begun
    }

    /// What was measured of one metric, in order.
    fn measured(&self, value: fn(&Line) -> f64) -> Vec<f64> {
        self.lines.iter().map(value).filter(|value| value.is_finite()).collect()
    }

    fn tool_use_collapse(&self) -> Option<String> {
        let tool_use = self.measured(|line| line.tool_use);
        let recent = mean(last(&tool_use, RECENT)?);
        let most = (1..=tool_use.len()).map(|end| mean(&tool_use[end.saturating_sub(RECENT)..end])).fold(0.0, f64::max);
        (most >= TOOL_USE_MIN && recent < TOOL_USE_LEFT * most).then(|| {
            format!(
                "warning: tool use collapses: {recent:.2} of the rollouts of the last {RECENT} lines of metrics call a tool, {most:.2} did at its \
                 height. Look at `rewards/NAME/mean` and at what becomes of calls (`tool/NAME/error`): perhaps guessing is worth as much. \
                 Give a reward for calls a weight (`reward.weights`), hold the policy near its start (`grpo.beta`), or lower \
                 `optimizer.learning_rate`"
            )
        })
    }

    fn kl_out_of_band(&self) -> Option<String> {
        let kl = self.lines.last()?.kl;
        (self.kl_max > 0.0 && kl > self.kl_max).then(|| {
            format!(
                "warning: the KL divergence from the starting weights is {kl:.3} nats a token, above `training.warn_kl` ({}). Raise `grpo.beta`, \
                 lower `optimizer.learning_rate`, or raise `training.warn_kl`",
                self.kl_max
            )
        })
    }

    fn entropy_collapse(&self) -> Option<String> {
        let entropy = self.measured(|line| line.entropy);
        let (first, recent) = (mean(entropy.get(..RECENT)?), mean(last(&entropy, RECENT)?));
        let accuracy = last(&self.measured(|line| line.accuracy), RECENT).map_or(0.0, mean);
        (recent < ENTROPY_LEFT * first && accuracy < ACCURACY_ENOUGH).then(|| {
            format!(
                "warning: the entropy collapses: {recent:.4} nats a token in the last {RECENT} lines of metrics, {first:.4} in the first {RECENT}, \
                 and {accuracy:.2} of the answers are right. Rollouts hardly differ any more. Raise `grpo.epsilon_high`, \
                 `sampling.temperature` or `grpo.beta`, or lower `optimizer.learning_rate`"
            )
        })
    }

    fn reward_alone(&self) -> Option<String> {
        let change = |value| {
            let values = self.measured(value);
            let later = last(&values, HALF)?;
            Some(mean(later) - mean(last(&values[..values.len() - HALF], HALF)?))
        };
        let (reward, accuracy) = (change(|line| line.reward)?, change(|line| line.accuracy)?);
        (reward > APART && accuracy < -APART).then(|| {
            format!(
                "warning: the reward rises while the accuracy falls: by {reward:+.3} and {accuracy:+.3} in the last {HALF} lines of metrics against \
                 the {HALF} before. Something else than the answer is learned: look which `rewards/NAME/mean` rises, and lower its weight \
                 (`reward.weights`)"
            )
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The last `count` values, if there are so many.
fn last(values: &[f64], count: usize) -> Option<&[f64]> {
    values.get(values.len().checked_sub(count)?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: [f64; 6] = [1.0, 0.5, 0.6, 80.0, 1.0, 0.01];

    /// The warnings that lines give, each with the number of its line.
    fn said(kl_max: f64, lines: &[[f64; 6]]) -> Vec<(usize, String)> {
        let mut warnings = Warnings::new(kl_max);
        let told = lines.iter().enumerate().map(|(i, line)| (i, warnings.look(*line)));
        told.flat_map(|(i, said)| said.into_iter().map(move |text| (i, text))).collect()
    }

    /// Calm lines but for one value, which takes these values.
    fn lines(name: &str, values: &[f64]) -> Vec<[f64; 6]> {
        let place = WATCHED.iter().position(|known| *known == name).unwrap();
        let line = |value: &f64| {
            let mut line = CALM;
            line[place] = *value;
            line
        };
        values.iter().map(line).collect()
    }

    #[track_caller]
    fn assert_said(found: &[(usize, String)], wanted: &[(usize, &str)]) {
        let is_same = found.len() == wanted.len()
            && found.iter().zip(wanted).all(|((at, text), (wanted_at, part))| at == wanted_at && text.contains(part));
        assert!(is_same, "{found:#?} is not {wanted:?}");
    }

    #[test]
    fn a_calm_run_gives_no_warning() {
        assert_said(&said(0.25, &[CALM; 50]), &[]);
    }

    #[test]
    fn the_collapse_of_tool_use_is_said_once_an_episode() {
        let falling = [0.3, 0.6, 0.6, 0.6, 0.4, 0.1, 0.05, 0.0, 0.0, 0.0];
        assert_said(&said(0.0, &lines("tool_use", &falling)), &[(6, "0.18 of the rollouts")]);
        let again = [&falling[..], &[0.6; 4], &[0.0; 5]].concat();
        assert_said(
            &said(0.0, &lines("tool_use", &again)),
            &[(6, "tool use collapses"), (16, "0.60 did at its height")],
        );
        assert_said(&said(0.0, &lines("tool_use", &[0.25, 0.0, 0.0, 0.0])), &[(3, "0.25 did at its height")]);
        assert_said(&said(0.0, &lines("tool_use", &[0.09, 0.09, 0.09, 0.0, 0.0, 0.0])), &[]);
        assert_said(&said(0.0, &lines("tool_use", &[0.6, 0.6, 0.6, 0.0, 0.6, 0.6])), &[]);
    }

    #[test]
    fn where_nothing_was_sampled_tool_use_says_nothing() {
        let mut silent = lines("tool_use", &[0.6, 0.6, 0.6, 0.0, 0.0, 0.0, 0.0]);
        silent[3..].iter_mut().for_each(|line| line[3] = 0.0);
        assert_said(&said(0.0, &silent), &[]);
    }

    #[test]
    fn the_divergence_leaves_its_band_at_the_key() {
        let found = said(0.25, &lines("kl", &[0.1, 0.3, 0.4, f64::NAN, 0.2, 0.5]));
        assert_said(&found, &[(1, "is 0.300 nats"), (5, "is 0.500 nats a token, above `training.warn_kl` (0.25)")]);
        assert_said(&said(0.0, &lines("kl", &[9.0])), &[]);
    }

    #[test]
    fn entropy_collapses_unless_the_answers_are_right() {
        let falling = lines("entropy", &[1.0, 1.0, 1.0, 0.5, 0.1, 0.05, 0.05, 0.05]);
        assert_said(&said(0.0, &falling), &[(6, "0.0667 nats a token in the last 3 lines of metrics, 1.0000")]);
        let right: Vec<[f64; 6]> = falling.iter().map(|line| [1.0, 0.97, line[2], line[3], line[4], line[5]]).collect();
        assert_said(&said(0.0, &right), &[]);
    }

    #[test]
    fn a_reward_that_rises_while_the_accuracy_falls_is_suspicious() {
        let line = |i: usize| [1.0 + 0.02 * i as f64, 0.8 - 0.02 * i as f64, 0.6, 80.0, 1.0, 0.0];
        let hacked: Vec<[f64; 6]> = (0..25).map(line).collect();
        assert_said(&said(0.0, &hacked), &[(19, "by +0.200 and -0.200")]);
        let learned: Vec<[f64; 6]> = (0..25)
            .map(line)
            .map(|[reward, accuracy, rest @ ..]| [reward, 1.0 - accuracy, rest[0], rest[1], rest[2], rest[3]])
            .collect();
        assert_said(&said(0.0, &learned), &[]);
    }
}
