//! The check by which a device proves itself: on the CPU and on the simt device it passes, it launches every kernel, planted faults are named,
//! and its verdict is what `--device auto` goes by.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use thyme_engine::cli::device::{Candidate, Device};
use thyme_engine::cuda::device::simt::{Architecture, Simt, SimtOptions};
use thyme_engine::cuda::kernels;
use thyme_engine::device_check::check::{Check, Fault, Outcome, Sizes, Subject};
use thyme_engine::device_check::record::{Choice, Identity, Verdict, take_if_proven};
use thyme_engine::device_check::{Report, checks, run};

fn identity() -> Identity {
    let name = |text: &str| text.to_owned();
    Identity {
        device: name("a card"),
        uuid: name("GPU-0"),
        driver: name("1 for CUDA 13.0"),
        kernels: name("k"),
        program: name("0"),
    }
}

fn subject(options: SimtOptions) -> Subject {
    Candidate::of_kernels(Arc::new(Simt::new(options).unwrap()), Sizes::Small, identity()).unwrap().subject
}

/// The outcomes of the checks of a name.
fn outcomes(subject: &Subject, name: &str) -> Vec<Outcome> {
    let some: Vec<Check> = checks(subject).into_iter().filter(|check| check.name == name).collect();
    assert!(!some.is_empty(), "there is no check {name}");
    run(subject, &some, |_| {}).outcomes
}

#[track_caller]
fn expect_passed(report: &Report) {
    let faults: Vec<String> = report.faults().map(ToString::to_string).collect();
    assert!(report.is_passed(), "{}", faults.join("\n"));
}

#[test]
fn the_kernels_pass_and_every_one_of_them_is_launched() {
    let mut subject = subject(SimtOptions::fast());
    let launched = Arc::new(Mutex::new(BTreeSet::new()));
    let (take, seen) = (subject.launches.take().unwrap(), launched.clone());
    subject.launches = Some(Box::new(move || {
        let launches = take();
        seen.lock().unwrap().extend(launches.iter().map(|launch| launch.kernel.clone()));
        launches
    }));
    let report = run(&subject, &checks(&subject), |_| {});
    expect_passed(&report);
    subject.launches.as_ref().unwrap()();
    let launched = launched.lock().unwrap();
    let names = kernels::units().flat_map(|(_, text)| kernels::names(text));
    let left_out: Vec<&str> = names.filter(|name| !launched.contains(*name)).collect();
    assert!(left_out.is_empty(), "kernels that the check does not launch: {left_out:?}");
}

/// What a card is asked at the shapes of the models, of the host.
#[test]
#[ignore = "takes minutes and 8 GB; run: cargo test --release --test it real_shapes -- --ignored --nocapture"]
fn the_kernels_pass_at_real_shapes() {
    let small = checks(&subject(SimtOptions::fast()));
    let subject = Subject { sizes: Sizes::Real, ..subject(SimtOptions::fast()) };
    let is_real = |check: &Check| !small.iter().any(|other| (other.name, &other.shape) == (check.name, &check.shape));
    let real: Vec<Check> = checks(&subject).into_iter().filter(is_real).collect();
    expect_passed(&run(&subject, &real, |outcome| println!("{outcome}")));
}

fn subject_of_cpu() -> Subject {
    Device::Cpu.candidate().unwrap().subject
}

#[test]
fn the_cpu_passes() {
    let subject = subject_of_cpu();
    expect_passed(&run(&subject, &checks(&subject), |_| {}));
}

/// The model of tensor cores in Rust is the one in C++, for either architecture; and no other.
#[test]
fn both_architectures_have_the_bits_of_their_model() {
    for architecture in [Architecture::Sm80, Architecture::Sm90] {
        let subject = subject(SimtOptions { architecture, ..SimtOptions::fast() });
        let faults: Vec<Outcome> =
            outcomes(&subject, "tensor_core").into_iter().filter(|outcome| outcome.fault.is_some()).collect();
        assert!(faults.is_empty(), "{architecture:?}: {faults:?}");
    }
    let mut other = subject(SimtOptions { architecture: Architecture::Sm80, ..SimtOptions::fast() });
    other.product = subject(SimtOptions::fast()).product;
    let fault = outcomes(&other, "tensor_core").into_iter().find_map(|outcome| outcome.fault);
    let Some(Fault::Value { kernel, .. }) = fault else { panic!("another model's bits are not found: {fault:?}") };
    assert!(kernel.starts_with("token_logprob_logits"), "{kernel}");
}

/// The device with `from` in the source `unit` replaced, wherever it stands.
fn planted(unit: &str, from: &str, to: &str) -> Subject {
    let mut options = SimtOptions::fast();
    let (_, text) = options.units.iter_mut().find(|(path, _)| path == unit).unwrap();
    assert!(text.contains(from), "{unit} has no {from:?} to plant a fault in");
    *text = text.replace(from, to);
    subject(options)
}

/// The fault that the checks of a name find, and its line.
#[track_caller]
fn found(subject: &Subject, name: &str) -> (String, String) {
    let wrong = outcomes(subject, name).into_iter().find(|outcome| outcome.fault.is_some());
    let wrong = wrong.unwrap_or_else(|| panic!("{name} passes with the fault"));
    let Some(Fault::Value { kernel, .. }) = &wrong.fault else { panic!("{wrong}") };
    (kernel.clone(), wrong.to_string())
}

#[track_caller]
fn expect_parts(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

/// A product whose results go through `change` before `PutBf16` stores those that `stored` names.
fn planted_product(stored: &str, change: &str) -> Subject {
    let include = "#include \"common/product.cuh\"";
    let faulty = format!(
        "{include}
struct Faulty {{
    PutBf16 put;
    template <int COUNT>
    __device__ void operator()(int row, int column, const float (&strip)[COUNT][2]) const {{
        float changed[COUNT][2];
        for (int i = 0; i < COUNT; ++i) {{
            changed[i][0] = strip[i][0];
            changed[i][1] = strip[i][1];
            {change}
        }}
        put(row, column, changed);
    }}
}};"
    );
    let mut options = SimtOptions::fast();
    let (_, text) = options.units.iter_mut().find(|(path, _)| path == "linear.cu").unwrap();
    let put = format!("PutBf16{{{stored}}}");
    assert!(text.contains(include) && text.contains(&put), "linear.cu has no {put:?} to plant a fault in");
    *text = text.replace(include, &faulty).replace(&put, &format!("Faulty{{{stored}}}"));
    subject(options)
}

#[test]
fn a_wrong_bit_is_named() {
    let flipped = "if (row + i * 8 == 6 && column == 4) changed[i][0] = __uint_as_float(__float_as_uint(strip[i][0]) ^ 0x10000u);";
    let (kernel, line) = found(&planted_product("y, rows, columns, b", flipped), "tensor_core");
    assert!(kernel.starts_with("linear_forward"), "{kernel}");
    expect_parts(&line, &["FAILED", "[7, 40] to 33", "y[6, 4]", "expected ", "got ", "bits "]);
}

#[test]
fn a_wrong_place_in_a_fragment_is_named() {
    let swapped = "changed[i][0] = strip[i][1], changed[i][1] = strip[i][0];";
    let subject = planted_product("dx, rows, inner, nullptr", swapped);
    let (kernel, line) = found(&subject, "tensor_core");
    assert!(kernel.starts_with("linear_backward_input"), "{kernel}");
    expect_parts(&line, &["[1, 16] to 8", "dx[0, 0]", "expected ", "got "]);
    assert!(found(&subject, "linear").0.starts_with("linear_backward_input"));
}

/// A row of `rms_norm.cu`, and one that nobody writes.
const ROW: &str = "size_t row = blockIdx.x, at = row * dim;";
const UNWRITTEN_ROW: &str = "size_t row = blockIdx.x, at = row * dim; if (row == 5) return;";

#[test]
fn a_row_that_is_not_written_is_named() {
    let subject = planted("rms_norm.cu", ROW, UNWRITTEN_ROW);
    let (kernel, line) = found(&subject, "rms_norm");
    assert_eq!(kernel, "rms_norm_forward");
    expect_parts(&line, &["[7, 64]", "y[5, 0]", "got NaN, which nothing has written over"]);
}

#[test]
fn a_row_that_depends_on_its_company_is_named() {
    let subject = planted(
        "rms_norm.cu",
        "rstd + row, epsilon, dim",
        "rstd + row, gridDim.x == 1 ? 4.0f * epsilon : epsilon, dim",
    );
    let (kernel, line) = found(&subject, "rms_norm_forward");
    assert_eq!(kernel, "rms_norm_forward");
    expect_parts(&line, &["a row of 131", "in a call of 1", "as in company"]);
}

#[test]
fn a_second_writer_of_a_gradient_is_named() {
    let subject = planted("rms_norm.cu", "add_partial_rows(partial, dw, parts, dim);", "if (parts < 0) return;");
    assert_eq!(found(&subject, "rms_norm").0, "rms_norm_backward_weight");
}

/// A device that stops is asked for nothing more, and the kernel that it stopped at is named.
#[test]
fn a_check_that_stops_ends_the_report() {
    let mut subject = subject(SimtOptions::fast());
    let take = subject.launches.take().unwrap();
    subject.launches = Some(Box::new(move || {
        let launches = take();
        assert!(!launches.iter().any(|launch| launch.kernel == "swiglu_forward"), "the device is gone");
        launches
    }));
    let some: Vec<Check> = checks(&subject).into_iter().filter(|check| check.name == "swiglu").collect();
    let report = run(&subject, &some, |_| {});
    assert!(!report.is_passed() && report.outcomes.len() == 1 && report.not_run == some.len() - 1, "{report:?}");
    expect_parts(&report.outcomes[0].to_string(), &["FAILED", "it stopped: the device is gone"]);
}

fn report(subject: &Subject, name: &str) -> Report {
    let some: Vec<Check> = checks(subject).into_iter().filter(|check| check.name == name).collect();
    run(subject, &some, |_| {})
}

#[test]
fn a_verdict_is_remembered_for_its_device_driver_and_kernels_alone() {
    let cache = tempfile::tempdir().unwrap();
    let verdict = |identity: &Identity| identity.verdict(cache.path());
    let own = identity();
    assert_eq!(verdict(&own), Verdict::Unchecked);
    let sound = report(&subject(SimtOptions::fast()), "swiglu");
    let path = own.remember(cache.path(), &sound).unwrap();
    assert!(path.starts_with(cache.path().join("doctor")));
    assert_eq!(verdict(&own), Verdict::Passed);
    let other = || "another".to_owned();
    for stranger in [
        Identity { device: other(), ..identity() },
        Identity { uuid: other(), ..identity() },
        Identity { driver: other(), ..identity() },
        Identity { kernels: other(), ..identity() },
        Identity { program: other(), ..identity() },
    ] {
        assert_eq!(verdict(&stranger), Verdict::Unchecked);
        // Nor where its file has the other's name.
        std::fs::copy(&path, stranger.path(cache.path())).unwrap();
        assert_eq!(verdict(&stranger), Verdict::Unchecked);
    }
    own.remember(cache.path(), &Report { not_run: 1, ..sound }).unwrap();
    assert_eq!(verdict(&own), Verdict::Unchecked);
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&b""[..], b"{", b"null", b"[1]", &whole[..whole.len() / 2], b"\xFF\xFE"] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(verdict(&own), Verdict::Unchecked);
    }
}

#[test]
fn auto_takes_what_has_passed() {
    let own = identity();
    let failed = Verdict::Failed("FAILED linear_forward".to_owned());
    assert_eq!(own.choose(&Verdict::Unchecked), Choice::Check);
    assert_eq!(own.choose(&Verdict::Passed), Choice::Take);
    let Choice::Refuse(reason) = own.choose(&failed) else { panic!("a device that failed is taken") };
    expect_parts(&reason, &["a card", "FAILED linear_forward", "thyme-engine doctor --device cuda"]);
}

/// Whether the device is taken, how often it is checked, and what is said.
fn taken(own: &Identity, cache: Option<&Path>, check: impl FnOnce() -> Verdict) -> (bool, usize, Vec<String>) {
    let (mut checked, mut said) = (0, Vec::new());
    let counted = || {
        checked += 1;
        check()
    };
    let is_taken = take_if_proven(own, cache, counted, |line| said.push(line.to_owned()));
    (is_taken, checked, said)
}

#[test]
fn auto_checks_a_device_at_its_first_use_and_goes_by_what_it_finds() {
    let cache = tempfile::tempdir().unwrap();
    let (own, folder) = (identity(), cache.path());
    let check_of = |subject: Subject, name: &'static str| {
        let own = identity();
        move || {
            own.remember(folder, &report(&subject, name)).unwrap();
            own.verdict(folder)
        }
    };
    let nobody = || -> Verdict { panic!("it is checked again") };
    let (is_taken, checked, said) = taken(&own, Some(folder), check_of(subject(SimtOptions::fast()), "swiglu"));
    assert!(is_taken && checked == 1 && said.len() == 1, "{said:?}");
    expect_parts(&said[0], &["a card has not been checked yet", "checking it now"]);
    assert_eq!(taken(&own, Some(folder), nobody), (true, 0, vec![]));

    std::fs::remove_file(own.path(folder)).unwrap();
    let broken = planted("rms_norm.cu", ROW, UNWRITTEN_ROW);
    let (is_taken, checked, said) = taken(&own, Some(folder), check_of(broken, "rms_norm"));
    assert!(!is_taken && checked == 1 && said.len() == 2, "{said:?}");
    expect_parts(&said[1], &["takes the CPU", "rms_norm_forward", "doctor --device cuda"]);
    let (is_taken, _, said) = taken(&own, Some(folder), nobody);
    assert!(!is_taken && said.len() == 1 && said[0].contains("rms_norm_forward"), "{said:?}");

    // A check that comes to no end, and one whose result has no place.
    std::fs::remove_file(own.path(folder)).unwrap();
    let (is_taken, _, said) = taken(&own, Some(folder), || Verdict::Unchecked);
    assert!(!is_taken && said[1].contains("came to no end"), "{said:?}");
    assert!(taken(&own, None, || Verdict::Passed).0);
}

fn doctor(arguments: &[&str], cache: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
    let output = command.arg("doctor").args(arguments).env("XDG_CACHE_HOME", cache).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn doctor_says_a_line_a_check_and_a_summary() {
    let cache = tempfile::tempdir().unwrap();
    let (code, said, progress) = doctor(&["--device", "cpu"], cache.path());
    assert_eq!(code, Some(0), "{said}{progress}");
    let lines: Vec<&str> = said.lines().collect();
    let (summary, lines) = lines.split_last().unwrap();
    assert!(lines.iter().all(|line| line.starts_with("ok ")), "{said}");
    expect_parts(summary, &[&format!("{} checks passed in ", lines.len()), "on the CPU"]);
    expect_parts(&progress, &["checks"]);
}

#[test]
fn doctor_refuses_what_is_no_device() {
    let cache = tempfile::tempdir().unwrap();
    let (code, _, error) = doctor(&["--device", "auto"], cache.path());
    assert_eq!(code, Some(1));
    expect_parts(&error, &["check cuda, simt or cpu"]);
}
