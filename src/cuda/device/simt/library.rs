//! Builds the host device's shared library, once for each content: an object for each kernel source and each file of the runtime, so that
//! a change of one recompiles one.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rayon::prelude::*;

use super::{DeviceError, SimtOptions};
use crate::cuda::kernels::{SOURCES, names};

/// Contraction is off here as it is in nvcc. Kernels look at the same bytes as bf16 and as words. A call that is not the last thing of a
/// function leaves its address for reports.
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-optimize-sibling-calls",
    "-fno-exceptions",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wno-psabi",
];

/// What lets `kernels/simt/memory.cpp` see every access of a kernel.
const WATCHED: &str = "-fsanitize=thread,alignment,bounds";

/// One translation unit.
struct Unit {
    path: String,
    text: String,
    flags: Vec<&'static str>,
}

/// The library's path; it is there when this returns.
pub fn build(options: &SimtOptions) -> Result<PathBuf, DeviceError> {
    let compiler = Compiler::find()?;
    let cache = cache()?;
    let headers = headers(&cache)?;
    let units = units(options);
    let objects: Vec<(u64, &Unit)> = units
        .iter()
        .map(|unit| {
            (hash(&(&compiler.version, FLAGS, vector_flags(), &unit.flags, &headers, &unit.path, &unit.text)), unit)
        })
        .collect();
    let key = hash(&objects.iter().map(|(key, _)| *key).collect::<Vec<u64>>());
    let library = cache.join(format!("{key:016x}.so"));
    if library.exists() {
        return Ok(library);
    }
    // Others who want the same wait, rather than compile it beside us.
    let lock_path = cache.join("lock");
    let lock = std::fs::File::create(&lock_path).map_err(|source| io(&lock_path, source))?;
    lock.lock().map_err(|source| io(&lock_path, source))?;
    if library.exists() {
        return Ok(library);
    }
    let paths: Vec<PathBuf> = objects
        .into_par_iter()
        .map(|(key, unit)| {
            let object = cache.join(format!("{key:016x}.o"));
            if !object.exists() {
                compiler.compile(unit, &headers, &object)?;
            }
            Ok(object)
        })
        .collect::<Result<_, DeviceError>>()?;
    compiler.link(&paths, &library)?;
    Ok(library)
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn io(path: &Path, source: std::io::Error) -> DeviceError {
    DeviceError::Io { path: path.display().to_string(), source }
}

/// The folder of what is built: `$THYME_SIMT_CACHE`, or a folder of the user's cache.
fn cache() -> Result<PathBuf, DeviceError> {
    let own = std::env::var_os("THYME_SIMT_CACHE").map(PathBuf::from);
    let users = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let folder = own.or_else(|| users().or_else(home).map(|folder| folder.join("thyme-engine/simt")));
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("thyme-engine-simt"));
    std::fs::create_dir_all(&folder).map_err(|source| io(&folder, source))?;
    Ok(folder)
}

/// A folder with every source as it is in `kernels/`, named after its content.
fn headers(cache: &Path) -> Result<PathBuf, DeviceError> {
    let included = || SOURCES.iter().filter(|(path, _)| path.ends_with(".cuh") || path.ends_with(".h"));
    let folder = cache.join(format!("{:016x}", hash(&included().collect::<Vec<_>>())));
    if folder.exists() {
        return Ok(folder);
    }
    let draft = cache.join(format!("draft-{}-{:?}", std::process::id(), std::thread::current().id()));
    for (path, text) in included() {
        let path = draft.join(path);
        let parent = path.parent().expect("a file is in a folder");
        std::fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
        std::fs::write(&path, text).map_err(|source| io(&path, source))?;
    }
    match std::fs::rename(&draft, &folder) {
        Err(_) if folder.exists() => std::fs::remove_dir_all(&draft).map_err(|source| io(&draft, source))?,
        moved => moved.map_err(|source| io(&folder, source))?,
    }
    Ok(folder)
}

/// The kernels, each followed by a line that makes it findable, and the runtime.
fn units(options: &SimtOptions) -> Vec<Unit> {
    let kernel = |(path, text): &(String, String)| {
        let entries: String = names(text).iter().map(|name| format!("SIMT_KERNEL({name})\n")).collect();
        let text = format!("#line 1 \"{path}\"\n{text}\n#line 1 \"entries of {path}\"\n{entries}");
        Unit { path: path.clone(), text, flags: if options.checked { vec![WATCHED] } else { vec![] } }
    };
    let is_runtime = |path: &str| path.starts_with("simt/") && path.ends_with(".cpp");
    let runtime = SOURCES.iter().filter(|(path, _)| is_runtime(path)).map(|(path, text)| Unit {
        path: (*path).to_owned(),
        text: format!("#line 1 \"{path}\"\n{text}"),
        flags: if options.checked { vec!["-DSIMT_CHECKED"] } else { vec![] },
    });
    options.units.iter().map(kernel).chain(runtime).collect()
}

/// The vector extensions of this machine that the tensor cores' arithmetic gains by.
fn vector_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return &["-mavx2", "-mfma"];
    }
    &[]
}

struct Compiler {
    command: OsString,
    version: String,
}

impl Compiler {
    fn find() -> Result<Compiler, DeviceError> {
        let named = std::env::var_os("CXX").filter(|name| !name.is_empty());
        for command in named.into_iter().chain(["g++", "c++", "clang++"].map(OsString::from)) {
            if let Ok(output) = Command::new(&command).arg("--version").output()
                && output.status.success()
            {
                return Ok(Compiler { command, version: String::from_utf8_lossy(&output.stdout).into_owned() });
            }
        }
        Err(DeviceError::Missing(
            "the simt device compiles its kernels with a C++ compiler, and $CXX, g++, c++ and clang++ were not found; install one \
             (Debian and Ubuntu: apt install g++)"
                .to_owned(),
        ))
    }

    fn compile(&self, unit: &Unit, headers: &Path, object: &Path) -> Result<(), DeviceError> {
        let mut command = Command::new(&self.command);
        command.args(FLAGS).args(vector_flags()).args(&unit.flags).args(["-x", "c++", "-c", "-"]);
        command.arg("-I").arg(headers).arg("-I").arg(headers.join("simt"));
        command.arg("-include").arg(headers.join("simt/simt.h"));
        self.run(command, &unit.path, &unit.text, object)
    }

    fn link(&self, objects: &[PathBuf], library: &Path) -> Result<(), DeviceError> {
        let mut command = Command::new(&self.command);
        command.args(["-shared", "-pthread"]).args(objects);
        self.run(command, "the simt library", "", library)
    }

    /// Runs the compiler with `text` as its input and `output` written under another name first, so that nobody sees half a file.
    fn run(&self, mut command: Command, unit: &str, text: &str, output: &Path) -> Result<(), DeviceError> {
        let draft = output.with_extension(format!("draft-{}", std::process::id()));
        command.arg("-o").arg(&draft).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |source| io(Path::new(&self.command), source);
        let mut child = command.spawn().map_err(failed)?;
        // A compiler that gives up early closes its input; what it says then matters more than that.
        let _ = child.stdin.take().expect("the input is piped").write_all(text.as_bytes());
        let said = child.wait_with_output().map_err(failed)?;
        if !said.status.success() {
            let message = String::from_utf8_lossy(&said.stderr).into_owned();
            return Err(DeviceError::Compile { unit: unit.to_owned(), message });
        }
        std::fs::rename(&draft, output).map_err(|source| io(output, source))
    }
}
