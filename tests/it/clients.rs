//! The server as other projects' clients use it: their packages run unchanged, each with a script of `tools/clients` that fails on any
//! mismatch. `tools/clients/run.sh` installs them all and runs these tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::command::{Workplace, succeed};
use crate::support::server::{Server, init};

#[test]
#[ignore = "needs the package openai; run: THYME_OPENAI_PYTHON=python cargo test --test it the_openai_client -- --ignored"]
fn the_openai_client_is_content() {
    let server = Server::start_with_tools(&["--api-key", "sk-key", "--max-logprobs", "-1"]);
    let address = format!("http://{}/v1", server.address);
    let said = check("openai", &[&address, "--api-key", "sk-key"]);
    assert_eq!(said.matches(": ok").count(), 7, "{said}");
}

#[test]
#[ignore = "needs the package trl; run: THYME_TRL_PYTHON=python cargo test --test it the_trl_client -- --ignored"]
fn the_trl_client_is_content() {
    let server = Server::start_with_tools(&["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]);
    init(&server.workplace, "other", 1);
    let other = server.workplace.path("other");
    let said = check("trl", &[&format!("http://{}", server.address), "--weights", other.to_str().unwrap()]);
    assert_eq!(said.matches(": ok").count(), 7, "{said}");
}

#[test]
#[ignore = "needs the package lmms-eval; run: THYME_LMMS_EVAL_PYTHON=python cargo test --test it lmms_eval -- --ignored"]
fn lmms_eval_scores_what_plain_requests_score() {
    let said = evaluate("lmms_eval");
    assert_eq!(said.matches(": ok, 16 answers").count(), 2, "{said}");
}

#[test]
#[ignore = "needs VLMEvalKit; run: THYME_VLMEVAL_PYTHON=python cargo test --test it vlmevalkit -- --ignored"]
fn vlmevalkit_scores_what_plain_requests_score() {
    let said = evaluate("vlmeval");
    assert_eq!(said.matches(": ok, 16 answers").count(), 2, "{said}");
}

/// Runs an evaluation client on the shipped model and pictures of the needle task.
fn evaluate(client: &str) -> String {
    let workplace = Workplace::new();
    let pictures = workplace.path("pictures");
    let mut data = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    data.args(["data", "needle", "--count", "16", "--seed", "0", "--split", "held_out", "--out"]).arg(&pictures);
    succeed(data);
    let server =
        Server::start_on(workplace, &root().join("recipes/tiny-sft"), &["--api-key", "sk-key", "--max-logprobs", "-1"]);
    let address = format!("http://{}/v1", server.address);
    check(client, &[&address, pictures.to_str().unwrap(), "--api-key", "sk-key"])
}

/// Runs a client's script with the Python that has its package; what it said.
fn check(client: &str, arguments: &[&str]) -> String {
    let variable = format!("THYME_{}_PYTHON", client.to_uppercase());
    let python = std::env::var(&variable).unwrap_or_else(|_| panic!("{variable} names no Python with the client"));
    let mut command = Command::new(python);
    command.arg(root().join(format!("tools/clients/{client}_check.py"))).args(arguments).env_remove("http_proxy");
    succeed(command)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
