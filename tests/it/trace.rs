//! `--trace`: what ran when, on which thread.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::command::{Workplace, refuse, succeed, train};

#[test]
fn a_trace_shows_the_parts_of_a_run_and_their_threads() {
    let place = Workplace::new();
    let path = place.path("trace.json");
    let recipe = place.grpo("[data.needle]\n[evaluation]\ntasks = 0\n");
    succeed(train(&recipe, &["--set", "training.max_steps=1", "--trace", path.to_str().unwrap()]));
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).collect::<Vec<_>>();
    for name in ["roll out", "schedule", "schedule ahead", "step", "prepare", "score", "accumulate", "update"] {
        let begins = named(name).iter().filter(|event| event["ph"] == "B").count();
        let ends = named(name).iter().filter(|event| event["ph"] == "E").count();
        assert!(begins > 0 && begins == ends, "{name}: {begins} begin, {ends} end");
    }
    assert!(named("step").iter().any(|event| event["args"]["tokens"].is_string() || event["args"]["tokens"].is_u64()));
    let threads: BTreeSet<u64> = events.iter().filter_map(|event| event["tid"].as_u64()).collect();
    assert!(threads.len() > 1, "pictures are prepared beside the steps");
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_first() {
    let place = Workplace::new();
    let said = refuse(train(&place.grpo("[data.needle]\n"), &["--trace", "/nowhere/trace.json"]));
    assert!(said.contains("--trace") && said.contains("/nowhere/trace.json"), "{said}");
}
