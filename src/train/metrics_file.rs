//! `metrics.jsonl` as a run reads it again: a line is an object with `step` and the values of some metrics.

use std::path::Path;

use serde_json::{Map, Value};

use crate::files::open::{read, read_text, replace};

/// Its name in the run's folder.
pub(super) const METRICS_FILE: &str = "metrics.jsonl";
/// Most bytes of it.
const METRICS_BYTES_MAX: u64 = 8 << 30;

/// A line's values by name.
pub(super) type Line = Map<String, Value>;

/// The lines of a run's folder, each with its step; none where the file is missing.
pub(super) fn lines(run: &Path) -> Vec<(u64, Line)> {
    let text = read_text(&run.join(METRICS_FILE), METRICS_BYTES_MAX).unwrap_or_default();
    let line = |text: &str| {
        let line: Line = serde_json::from_str(text).ok()?;
        Some((line.get("step")?.as_u64()?, line))
    };
    text.lines().filter_map(line).collect()
}

/// The values of a line under the given names, if it has them all; NaN for null.
pub(super) fn values_of<const N: usize>(line: &Line, names: [&str; N]) -> Option<[f64; N]> {
    let values: Option<Vec<f64>> =
        names.iter().map(|name| Some(line.get(*name)?.as_f64().unwrap_or(f64::NAN))).collect();
    values?.try_into().ok()
}

/// Cuts off the lines of steps behind `last`, and a line that was not written to its end.
pub(super) fn keep_steps(metrics: &Path, last: u64) -> std::io::Result<()> {
    let bytes = match read(metrics, METRICS_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let is_kept = |line: &&[u8]| {
        let value: Option<serde_json::Value> =
            line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        value.and_then(|value| value["step"].as_u64()).is_some_and(|step| step <= last)
    };
    let kept: Vec<u8> = bytes.split_inclusive(|&byte| byte == b'\n').filter(is_kept).collect::<Vec<_>>().concat();
    if kept.len() == bytes.len() {
        return Ok(());
    }
    replace(metrics, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_logged_as_null_was_logged() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(METRICS_FILE), "{\"step\":4,\"accuracy\":null,\"reward\":0.5}\n{\"step\":")
            .unwrap();
        let found = lines(dir.path());
        assert_eq!((found.len(), found[0].0), (1, 4));
        let values = values_of(&found[0].1, ["accuracy", "reward"]).unwrap();
        assert!(values[0].is_nan() && values[1] == 0.5, "{values:?}");
        assert!(values_of(&found[0].1, ["accuracy", "tool_use"]).is_none());
    }

    #[test]
    fn lines_behind_the_checkpoint_and_half_lines_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"a\":1}\n{\"step\":3}\n{\"step\":").unwrap();
        keep_steps(&path, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"a\":1}\n");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}").unwrap();
        keep_steps(&path, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    }
}
