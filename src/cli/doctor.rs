//! `thyme-engine doctor`: what this machine offers, and the remedy for what is missing.

use std::fmt::Write as _;

use clap::Args;

use super::device::{Candidate, Device, gpu, kernels, on_workers};
use super::jsonl::print;
use crate::device_check::{checks, run as run_checks};
use crate::files::cache::cache_folder;
use crate::sandbox::{Guarantee, Sandbox, SandboxOptions, Walls};
use crate::telemetry::Progress;

const EXAMPLES: &str = "Examples:
  thyme-engine doctor
  thyme-engine doctor --device cuda

The first time, it may make a Python environment for the sandbox with pip, and says so.

With --device it checks a device instead, in about a minute: the tensor cores' bits, every kernel against the CPU's definition, rows that must
not depend on their company, a tiny policy's sampler against its trainer, memory and graphs. What is wrong is named with the kernel, its
shapes and both values. The result is remembered for this GPU, driver and build of the kernels; --device auto takes a GPU that has passed.";

/// Say what was found on this machine, and the remedy for what is missing; or check a device.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArguments {
    /// Check this device: cuda, simt or cpu.
    #[arg(long, value_enum)]
    device: Option<Device>,
}

/// Runs the command.
pub fn run(arguments: &DoctorArguments) -> anyhow::Result<()> {
    match arguments.device {
        Some(device) => on_workers(|| prove(device)),
        None => report(),
    }
}

/// Has a device prove itself: a line a check, and whether it may be trusted.
fn prove(device: Device) -> anyhow::Result<()> {
    let Candidate { subject, description, identity } = device.candidate()?;
    if subject.launches.is_some() && subject.product.is_none() {
        eprintln!(
            "no model of these tensor cores is published: their results are held against the definition, not bit by bit"
        );
    }
    let checks = checks(&subject);
    let progress = Progress::new("doctor", "checks", checks.len() as u64);
    let report = run_checks(&subject, &checks, |outcome| {
        progress.say(&outcome.to_string());
        progress.advance(1);
    });
    progress.finish();
    let remembered = identity.zip(cache_folder()).map(|(identity, cache)| identity.remember(&cache, &report));
    let written = match &remembered {
        Some(Ok(path)) => format!("; written to {}", path.display()),
        Some(Err(error)) => format!("; it cannot be remembered: {error}"),
        None => String::new(),
    };
    let (failed, count) = (report.faults().count(), checks.len());
    if report.is_passed() {
        print(&format!("{count} checks passed in {:.1} s on {description}{written}\n", report.seconds))?;
        return Ok(());
    }
    let not_run = if report.not_run == 0 { String::new() } else { format!(", {} were not run", report.not_run) };
    anyhow::bail!("{failed} of {count} checks failed{not_run} on {description}{written}");
}

/// Says what was found.
fn report() -> anyhow::Result<()> {
    let mut report = format!("thyme-engine {}\n", env!("CARGO_PKG_VERSION"));
    for (name, finding) in [("cpu", cpu()), ("memory", memory()), ("gpu", gpu()), ("kernels", kernels())] {
        let _ = writeln!(report, "{name:<9} {finding}");
    }
    report.push_str(&sandbox());
    print(&report)?;
    Ok(())
}

fn cpu() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features = cpu_features();
    let features = if features.is_empty() { "no vector extension that is used".to_owned() } else { features.join(" ") };
    format!("{} with {cores} cores: {features}", std::env::consts::ARCH)
}

/// The extensions that the kernels know of and this CPU has.
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ];
        found.extend(known.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    found
}

fn memory() -> String {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    match available {
        Some(kib) => format!("{:.1} GiB available", kib as f64 / (1 << 20) as f64),
        None => "unknown".to_owned(),
    }
}

/// The jail's interpreter and walls, as it finds them itself.
fn sandbox() -> String {
    let everything = SandboxOptions { consent: Guarantee::ALL.to_vec(), ..SandboxOptions::default() };
    let sandbox = match Sandbox::start(everything) {
        Ok(sandbox) => sandbox,
        Err(error) => return format!("python    missing or unusable\nsandbox   does not start: {error}\n"),
    };
    let interpreter = sandbox.interpreter();
    let mut report = format!("python    {}: {}\n", interpreter.path.display(), interpreter.versions);
    let fallen = sandbox.walls().fallen();
    let verdict = if fallen.is_empty() { "all four guarantees hold" } else { "NOT SAFE: some guarantees do not hold" };
    let _ = writeln!(report, "sandbox   {verdict}");
    for guarantee in Guarantee::ALL {
        report.push_str(&wall(sandbox.walls(), guarantee));
    }
    report
}

/// One guarantee: its mechanisms, and how many attempts of the probe were refused; a line for each that was not.
fn wall(walls: &Walls, guarantee: Guarantee) -> String {
    let breaches = walls.breaches(guarantee);
    let tried = walls.attempts(guarantee).count();
    let mut report = format!("  {:<10} {}\n", guarantee.key(), guarantee.promise());
    let mechanisms = match walls.of(guarantee) {
        [] => "no mechanism".to_owned(),
        mechanisms => mechanisms.join(", "),
    };
    let _ = writeln!(report, "             by {mechanisms}");
    let _ = writeln!(report, "             probe: {} of {tried} attempts refused", tried - breaches.len());
    for breach in &breaches {
        let _ = writeln!(report, "             NOT REFUSED: {breach}");
    }
    if walls.fallen().contains(&guarantee) {
        let _ = writeln!(
            report,
            "             remedy: run where Landlock, user namespaces or seccomp are offered (a container may forbid them), or accept it \
             with tool.consent = [\"{}\"] in a recipe of `train`",
            guarantee.key()
        );
    }
    report
}
