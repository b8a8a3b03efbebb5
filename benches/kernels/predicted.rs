//! What the kernels should take on an H200, where there is none: `kernels/resources.md`, and, where there is an nvcc, what its tables would say
//! of the sources as they are now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::rows::Wanted;

const WRITTEN: &str = include_str!("../../kernels/resources.md");
/// The GPU that is predicted.
const TARGET: &str = "sm_90a";
/// More than so many percent more is worse.
const TOLERATED: f64 = 5.0;

/// Whose instructions a predicted row issues most, by the row's first words.
const KERNELS: [(&str, &str); 20] = [
    ("linear y", "linear_forward_large"),
    ("linear dx", "linear_backward_input_large"),
    ("linear dw", "linear_backward_weight_large"),
    ("four linears", "linear_forward_few_64"),
    ("head", "token_logprob_logits_wide"),
    ("attention forward D 128", "attention_forward_128"),
    ("attention forward D 80", "attention_forward_80"),
    ("decode", "attention_forward_paged_128"),
    ("attention backward D 128", "attention_backward_keys_128"),
    ("token_logprob forward", "token_logprob_logits_large"),
    ("token_logprob backward", "token_logprob_backward_input_large"),
    ("rms_norm forward", "rms_norm_forward"),
    ("rms_norm backward", "rms_norm_backward"),
    ("rope", "rope_forward"),
    ("swiglu forward", "swiglu_forward"),
    ("swiglu backward", "swiglu_backward"),
    ("adamw in 8 bits", "adamw_8bit"),
    ("adamw", "adamw"),
    ("sample", "sample_slices"),
    ("patch_embed", "patch_embed_expand"),
];

/// A row of a table: cells by their column's name.
type Cells = BTreeMap<String, String>;

/// The two tables for one GPU.
#[derive(Deserialize)]
struct Tables {
    predicted: Vec<Cells>,
    counted: Vec<Cells>,
}

impl Tables {
    fn written() -> Tables {
        let found = tables(WRITTEN);
        let with = |column: &str| {
            let rows = found.iter().find(|rows| rows.first().is_some_and(|row| row.contains_key(column)));
            rows.cloned().unwrap_or_else(|| panic!("resources.md has no table with a column `{column}`"))
        };
        let mut counted = with("registers");
        counted.retain(|row| row["target"] == TARGET);
        Tables { predicted: with("predicted us"), counted }
    }

    /// The counted row of a kernel.
    fn of(&self, kernel: &str) -> Option<&Cells> {
        self.counted.iter().find(|row| row["kernel"] == kernel)
    }
}

/// The tables of a Markdown text.
fn tables(text: &str) -> Vec<Vec<Cells>> {
    let (mut found, mut columns): (Vec<Vec<Cells>>, Option<Vec<&str>>) = (Vec::new(), None);
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|') else {
            columns = None;
            continue;
        };
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        match &columns {
            None => {
                columns = Some(cells);
                found.push(Vec::new());
            }
            Some(_) if !line.contains(|sign| sign != '|' && sign != '-') => {}
            Some(columns) => {
                let named = columns.iter().map(|name| (*name).to_owned());
                let row = named.zip(cells.into_iter().map(str::to_owned)).collect();
                found.last_mut().expect("a table was begun").push(row);
            }
        }
    }
    found
}

/// Prints both tables, of the rows that are wanted.
pub fn print(wanted: &Wanted, why: &str) {
    let written = Tables::written();
    println!("predicted for an H200 by the model of tools/kernel_model.py, and not measured: {why}");
    match now() {
        Ok(now) => {
            println!("the sources as they are, beside kernels/resources.md");
            print_predicted(wanted, Some(&written), &now);
            print_counted(wanted, Some(&written), &now);
        }
        Err(why) => {
            println!("from kernels/resources.md, whatever the sources are now: {why}");
            print_predicted(wanted, None, &written);
            print_counted(wanted, None, &written);
        }
    }
}

fn print_predicted(wanted: &Wanted, before: Option<&Tables>, now: &Tables) {
    println!(
        "\n{:<42}{:>12}{:>14}{:>8}  {:<9}{:<30}{:>12}{:>11}{:>8}",
        "predicted", "floor us", "predicted us", "share", "bound by", "kernel", "instructions", "registers", "blocks"
    );
    for row in &now.predicted {
        let name = &row["kernel"];
        let kernel = KERNELS.iter().find(|(begin, _)| name.starts_with(begin)).map_or("", |(_, kernel)| kernel);
        if !wanted.has(name) && !wanted.has(kernel) {
            continue;
        }
        let counted = now.of(kernel);
        let cell = |column: &str| counted.map_or("", |row| row[column].as_str());
        let was = before.and_then(|tables| tables.predicted.iter().find(|row| row["kernel"] == *name));
        println!(
            "{name:<42}{:>12}{:>14}{:>6} %  {:<9}{kernel:<30}{:>12}{:>11}{:>8}{}",
            row["floor us"],
            row["predicted us"],
            row["share %"],
            row["bound by"],
            cell("instructions"),
            cell("registers"),
            cell("blocks"),
            was.map_or(String::new(), |was| changed("time", &was["predicted us"], &row["predicted us"])),
        );
    }
}

fn print_counted(wanted: &Wanted, before: Option<&Tables>, now: &Tables) {
    println!(
        "\n{:<36}{:>14}{:>11}{:>10}{:>8}{:>8}{:>9}{:>11}",
        "compiled for sm_90a", "instructions", "registers", "shared", "stack", "spill", "blocks", "in flight"
    );
    for row in now.counted.iter().filter(|row| wanted.has(&row["kernel"])) {
        let cell = |column: &str| row[column].as_str();
        let [instructions, registers, shared, stack] =
            ["instructions", "registers", "shared bytes", "stack bytes"].map(cell);
        let [spill, blocks, in_flight] = ["spill bytes", "blocks", "in flight bytes"].map(cell);
        let mut line = format!(
            "{:<36}{instructions:>14}{registers:>11}{shared:>10}{stack:>8}{spill:>8}{blocks:>9}{in_flight:>11}",
            row["kernel"]
        );
        if let Some(was) = before.map(|before| before.of(&row["kernel"])) {
            match was {
                None => line += "  new",
                Some(was) => {
                    line += &changed("instructions", &was["instructions"], instructions);
                    line += &changed("stack", &was["stack bytes"], stack);
                    line += &changed("spill", &was["spill bytes"], spill);
                    if number(blocks) < number(&was["blocks"]) {
                        line += &format!("  WORSE: blocks {} -> {blocks}", was["blocks"]);
                    }
                }
            }
        }
        println!("{line}");
    }
    println!("instructions: of a warp for one m16n8k16, in the innermost loop of products; blocks: that an SM holds");
}

fn number(text: &str) -> f64 {
    text.replace(',', "").parse().unwrap_or(0.0)
}

/// What became of a number that should not grow; nothing where it stayed.
fn changed(what: &str, was: &str, now: &str) -> String {
    let (before, after) = (number(was), number(now));
    if before == after {
        return String::new();
    }
    let percent = 100.0 * (after / before.max(f64::MIN_POSITIVE) - 1.0);
    let mark = if percent > TOLERATED { "WORSE: " } else { "" };
    let percent = if before > 0.0 { format!(", {percent:+.0} %") } else { String::new() };
    format!("  {mark}{what} {was} -> {now}{percent}")
}

/// The tables of the sources as they are, by nvcc; or why there are none.
fn now() -> Result<Tables, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nvcc = nvcc(root).ok_or("there is no nvcc ($THYME_NVCC, or tools/setup_nvcc.sh)")?;
    let mut command = Command::new("python3");
    command.arg(root.join("tools/kernel_resources.py")).arg(nvcc).arg("--json").arg("--cache");
    command.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel_resources"));
    let output = command.output().map_err(|error| format!("python3: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("tools/kernel_resources.py --json: {error}"))
}

/// Where build.rs looks for it too.
fn nvcc(root: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("THYME_NVCC") {
        return Some(PathBuf::from(named));
    }
    let pythons = std::fs::read_dir(root.join(".nvcc/lib")).ok()?;
    let inside = |python: std::fs::DirEntry| python.path().join("site-packages/nvidia/cu13/bin/nvcc");
    pythons.flatten().map(inside).find(|nvcc| nvcc.exists())
}
