//! Embeds the kernels: their sources, for the simt device, what launches have to know of them, and what nvcc makes of them, where there is
//! an nvcc. Nothing is downloaded, and a machine without nvcc builds everything else. For tests it also writes a macro that hands ops on to another backend.

use std::env;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

#[path = "kernels/launch.rs"]
mod launch;

/// What is compiled: the name that the device looks for, nvcc's option, the file's ending.
const TARGETS: [(&str, &str, &str); 3] = [
    ("sm_80", "arch=compute_80,code=sm_80", "cubin"),
    ("sm_90a", "arch=compute_90a,code=sm_90a", "cubin"),
    ("compute_80", "arch=compute_80,code=compute_80", "ptx"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=src/ops");
    // Not .nvcc: what is watched and absent makes every build run this again. tools/setup_nvcc.sh touches this file instead.
    for name in ["THYME_NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the manifest is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let kernels = root.join("kernels");
    let mut code = String::new();

    code.push_str("/// Every source below `kernels/`, by its path there.\npub const SOURCES: &[(&str, &str)] = &[\n");
    let sources = sources(&kernels);
    for source in &sources {
        let _ = writeln!(code, "    ({source:?}, include_str!({:?})),", kernels.join(source));
    }
    code.push_str("];\n");
    let read =
        |path: &String| (path.clone(), std::fs::read_to_string(kernels.join(path)).expect("a source can be read"));
    match launch::launch_code(&sources.iter().map(read).collect::<Vec<_>>()) {
        Ok(launch_code) => code.push_str(&launch_code),
        Err(fault) => return println!("cargo::error={fault}"),
    }

    let nvcc = nvcc(&root);
    let (mut embedded, mut fault) = (Vec::new(), None);
    if let Some(nvcc) = &nvcc {
        let units = sources.iter().filter(|source| source.ends_with(".cu") && !source.contains('/'));
        let wanted: Vec<_> = units.flat_map(|unit| TARGETS.map(|target| (unit.as_str(), target))).collect();
        let compiled = on_all_cores(&wanted, |&(unit, target)| compile(nvcc, &kernels, &sources, unit, target, &out));
        for ((unit, target), image) in wanted.into_iter().zip(compiled) {
            match image {
                Ok(path) => embedded.push((unit, target.0, path)),
                Err(message) => fault = Some(message),
            }
        }
    }
    let found = match (&nvcc, fault) {
        (None, _) => "no nvcc was found when this was built; run tools/setup_nvcc.sh and build again".to_owned(),
        (Some(nvcc), Some(fault)) => {
            embedded.clear();
            println!("cargo::warning=CUDA kernels are left out: {fault}");
            format!("{} could not compile the kernels: {fault}", nvcc.display())
        }
        (Some(nvcc), None) => format!("compiled by {}", nvcc.display()),
    };
    code.push_str("/// Compiled kernels: source, target, image.\npub const IMAGES: &[(&str, &str, &[u8])] = &[\n");
    for (unit, target, path) in &embedded {
        let _ = writeln!(code, "    ({unit:?}, {target:?}, include_bytes!({path:?})),");
    }
    code.push_str("];\n");
    let _ =
        writeln!(code, "/// How the images came to be, or why there are none.\npub const COMPILED: &str = {found:?};");
    std::fs::write(out.join("kernels.rs"), code).expect("the output folder can be written");
    std::fs::write(out.join("delegate_ops.rs"), delegate_ops(&root.join("src/ops")))
        .expect("the output folder can be written");
}

/// `delegate_ops!(Type, except Op)` implements all ops but that one for a type that has
/// `fn call<T>(&self, op: &'static str, compute: impl FnOnce(&Cpu) -> T) -> T`. The signatures are those of the traits in `src/ops/`.
fn delegate_ops(folder: &Path) -> String {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("src/ops/ can be read").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "rs"));
    files.sort();
    let mut uses = "        #[allow(unused_imports)] use std::ops::Range;\n".to_owned();
    let (mut arms, mut ops) = (String::new(), Vec::new());
    for file in files {
        let module = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("a source can be read");
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
        for part in code.join("\n").split("\npub trait ").skip(1) {
            let (name, body) = part.split_once(" {").expect("a trait has a body");
            // Traits with bounds are no ops: storage, captured graphs, the sum of all.
            if !name.contains(':') {
                let body = body.split("\n}").next().unwrap_or(body);
                let methods: String = body.split("\n    fn ").skip(1).filter_map(delegate_method).collect();
                let _ = writeln!(arms, "    (@{name} $backend:ty) => {{ impl {name} for $backend {{ {methods} }} }};");
                ops.push(name.to_owned());
            }
        }
        let path = if module == "mod" { String::new() } else { format!("{module}::") };
        let _ = writeln!(uses, "        #[allow(unused_imports)] use thyme_engine::ops::{path}*;");
    }
    for except in ops.iter().map(Some).chain([None]) {
        let pattern = except.map_or(String::new(), |op| format!(", except {op}"));
        let others = ops.iter().filter(|op| Some(*op) != except);
        let delegated: String = others.map(|op| format!("        delegate_ops!(@{op} $backend);\n")).collect();
        let _ = writeln!(
            arms,
            "    ($backend:ty{pattern}) => {{ const _: () = {{\n{uses}{delegated}        impl Backend for $backend {{}}\n    }}; }};"
        );
    }
    format!("macro_rules! delegate_ops {{\n{arms}}}\n")
}

/// The implementation of a method that is declared as `name(&self, argument: Type, ...) -> Output;`; none where it has a body of its own.
fn delegate_method(declared: &str) -> Option<String> {
    let declared = declared.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = declared.find([';', '{']).filter(|end| declared[*end..].starts_with(';'))?;
    let signature = &declared[..end];
    let (name, rest) = signature.split_once('(')?;
    let arguments = rest.rsplit_once(')').map_or(rest, |(arguments, _)| arguments);
    // Every name stands before a colon that no other colon follows.
    let names = arguments
        .replace("::", "")
        .split(": ")
        .filter_map(|before| before.rsplit(' ').next())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let names = names[..names.len() - 1].join(", ");
    Some(format!("fn {signature} {{ self.call({name:?}, |cpu| cpu.{name}({names})) }} "))
}

/// The C++ and CUDA files below `kernels`, as paths from there, in order.
fn sources(kernels: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![kernels.to_owned()];
    while let Some(folder) = open.pop() {
        for path in
            std::fs::read_dir(&folder).expect("kernels/ can be read").map(|entry| entry.expect("an entry").path())
        {
            let is_source = path.extension().is_some_and(|e| ["cu", "cuh", "h", "cpp"].iter().any(|known| e == *known));
            if path.is_dir() {
                open.push(path);
            } else if is_source {
                let inside = path.strip_prefix(kernels).expect("below kernels/");
                found.push(inside.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// The compiler that the environment names, that of a toolkit, the path's, or the one that tools/setup_nvcc.sh made.
fn nvcc(root: &Path) -> Option<PathBuf> {
    let named = env::var_os("THYME_NVCC").map(PathBuf::from);
    let toolkit = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let made = std::fs::read_dir(root.join(".nvcc/lib")).into_iter().flatten().flatten();
    let made = made.map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc"));
    named.into_iter().chain(toolkit).chain(on_path).chain(made).find(|nvcc| nvcc.is_file())
}

/// `work` of each item, as many at once as cargo allows.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let take = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        numbers.take_while(|number| *number < items.len()).map(|number| (number, work(&items[number]))).collect()
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        workers.into_iter().flat_map(|worker| -> Vec<_> { worker.join().expect("a worker ends") }).collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The image of a unit, unless the last build made it of the same text. Contraction is off, so that a multiplication and an addition round
/// as they are written.
fn compile(
    nvcc: &Path,
    kernels: &Path,
    sources: &[String],
    unit: &str,
    (target, option, form): (&str, &str, &str),
    out: &Path,
) -> Result<PathBuf, String> {
    let image = out.join(format!("{}.{target}.{form}", unit.trim_end_matches(".cu")));
    let stamp = image.with_extension(format!("{form}.of"));
    let mut hasher = DefaultHasher::new();
    let headers = sources.iter().filter(|source| source.ends_with(".cuh")).map(String::as_str);
    for source in headers.chain([unit]) {
        std::fs::read(kernels.join(source)).map_err(|error| format!("{source}: {error}"))?.hash(&mut hasher);
    }
    let options = [&format!("-{form}"), &format!("-gencode={option}"), "-std=c++17", "-O3", "--fmad=false", "-I"];
    (nvcc, options).hash(&mut hasher);
    let hash = hasher.finish().to_string();
    if image.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == hash) {
        return Ok(image);
    }
    let output = Command::new(nvcc)
        .args(options)
        .arg(kernels)
        .arg("-o")
        .arg(&image)
        .arg(kernels.join(unit))
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        std::fs::write(&stamp, hash).map_err(|error| error.to_string())?;
        return Ok(image);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().find(|line| line.contains("error")).or(text.lines().next()).unwrap_or("it said nothing");
    Err(first.to_owned())
}
