//! Builds the host device's shared library, once for each content: an object for each kernel source and each file of the runtime, so that
//! a change of one recompiles one. What nobody used for a month goes when the next library is built.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;

use super::{DeviceError, SimtOptions};
use crate::cuda::kernels::{SOURCES, names};
use crate::files::cache::cache_folder;

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

/// How long a part of the cache stays unused.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One translation unit.
struct Unit {
    path: String,
    text: String,
    flags: Vec<&'static str>,
}

/// The library's path; it is there when this returns.
pub fn build(options: &SimtOptions) -> Result<PathBuf, DeviceError> {
    build_in(&cache()?, options)
}

fn build_in(cache: &Path, options: &SimtOptions) -> Result<PathBuf, DeviceError> {
    let compiler = Compiler::find()?;
    let included: Vec<_> = SOURCES.iter().filter(|(path, _)| path.ends_with(".cuh") || path.ends_with(".h")).collect();
    let headers = cache.join(format!("{:016x}", hash(&included)));
    let units = units(options);
    let objects: Vec<(u64, &Unit)> = units
        .iter()
        .map(|unit| {
            (hash(&(&compiler.version, FLAGS, vector_flags(), &unit.flags, &headers, &unit.path, &unit.text)), unit)
        })
        .collect();
    let key = hash(&objects.iter().map(|(key, _)| *key).collect::<Vec<u64>>());
    let library = cache.join(format!("{key:016x}.so"));
    if find(cache, &library) {
        return Ok(library);
    }
    // Others who want the same wait, rather than compile it beside us.
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).map_err(|source| io(&lock_path, source))?;
    lock.lock().map_err(|source| io(&lock_path, source))?;
    if find(cache, &library) {
        return Ok(library);
    }
    if !find(cache, &headers) {
        write_headers(&included, &headers)?;
    }
    let paths: Vec<PathBuf> = objects
        .into_par_iter()
        .map(|(key, unit)| {
            let object = cache.join(format!("{key:016x}.o"));
            if !find(cache, &object) {
                compiler.compile(unit, &headers, &object)?;
            }
            Ok(object)
        })
        .collect::<Result<_, DeviceError>>()?;
    compiler.link(&paths, &library)?;
    prune(cache, SystemTime::now() - KEPT);
    Ok(library)
}

/// Whether a part of the cache is there. If so, it counts as used now: while the folder is locked nobody prunes, and afterwards it is new.
fn find(cache: &Path, part: &Path) -> bool {
    let folder = File::open(cache).and_then(|folder| folder.lock_shared().map(|()| folder));
    let touched = File::open(part).and_then(|part| part.set_modified(SystemTime::now()));
    drop(folder);
    // Whoever may only read the cache may use it too.
    touched.map_or_else(|error| error.kind() != ErrorKind::NotFound, |()| true)
}

/// Removes what was made here and not used since: parts for other sources and compilers, and what a broken build left. A library that a
/// process has loaded stays with that process. What cannot be removed, because it is another user's, does no harm.
fn prune(cache: &Path, since: SystemTime) {
    let folder = File::open(cache).and_then(|folder| folder.lock().map(|()| folder));
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten().filter(|entry| is_part(&entry.file_name())) {
        let is_stale = |metadata: &Metadata| metadata.modified().is_ok_and(|used| used < since);
        let _ = match entry.metadata() {
            Ok(metadata) if is_stale(&metadata) && metadata.is_dir() => std::fs::remove_dir_all(entry.path()),
            Ok(metadata) if is_stale(&metadata) => std::fs::remove_file(entry.path()),
            _ => Ok(()),
        };
    }
    drop(folder);
}

/// Whether a file or folder of this name is one of ours: a hash, then what it is. The cache may be any folder.
fn is_part(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let (hash, kind) = name.split_once('.').unwrap_or((&name, ""));
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && (["", "o", "so"].contains(&kind) || kind.starts_with("draft-"))
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
    let folder = own.or_else(|| cache_folder().map(|folder| folder.join("simt")));
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("thyme-engine-simt"));
    std::fs::create_dir_all(&folder).map_err(|source| io(&folder, source))?;
    Ok(folder)
}

/// Makes a folder with every header as it is in `kernels/`.
fn write_headers(included: &[&(&str, &str)], folder: &Path) -> Result<(), DeviceError> {
    let draft = draft(folder);
    for (path, text) in included {
        let path = draft.join(path);
        let parent = path.parent().expect("a file is in a folder");
        std::fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
        std::fs::write(&path, text).map_err(|source| io(&path, source))?;
    }
    std::fs::rename(&draft, folder).map_err(|source| io(folder, source))
}

/// What a part of the cache is called while it is made, so that nobody sees half of it.
fn draft(part: &Path) -> PathBuf {
    part.with_extension(format!("draft-{}", std::process::id()))
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

    /// Runs the compiler with `text` as its input.
    fn run(&self, mut command: Command, unit: &str, text: &str, output: &Path) -> Result<(), DeviceError> {
        let draft = draft(output);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path, days: u64) {
        let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        File::open(path).unwrap().set_modified(then).unwrap();
    }

    fn listed(cache: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(cache).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_not_used_for_long_is_pruned_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let path = |name: &str| cache.path().join(name);
        let stale = ["00000000000000aa", "00000000000000ab.o", "00000000000000ac.so", "00000000000000ad.draft-7"];
        let recent = ["00000000000000ba.o", "00000000000000bb.so"];
        let strange = ["00000000000000ca.txt", "lock", "notes", "thesis.so"];
        for name in stale.iter().chain(&recent).chain(&strange) {
            match name.contains(['.', 'k', 'n']) {
                true => std::fs::write(path(name), "").unwrap(),
                false => std::fs::create_dir_all(path(name).join("common")).unwrap(),
            }
            age(&path(name), if recent.contains(name) { 29 } else { 31 });
        }
        assert!(find(cache.path(), &path(stale[2])) && !find(cache.path(), &path("00000000000000ae.so")));
        prune(cache.path(), SystemTime::now() - KEPT);
        let mut kept = [&stale[2..3], &recent, &strange].concat();
        kept.sort_unstable();
        assert_eq!(listed(cache.path()), kept);
    }

    #[test]
    fn a_build_prunes_and_keeps_what_it_is_made_of() {
        let cache = tempfile::tempdir().unwrap();
        let options = |kernel: &str| {
            let text = format!("extern \"C\" __global__ void {kernel}(int* y) {{ *y = 1; }}\n");
            SimtOptions { units: vec![("some.cu".to_owned(), text)], ..SimtOptions::fast() }
        };
        let first = build_in(cache.path(), &options("first")).unwrap();
        let parts = listed(cache.path());
        parts.iter().for_each(|name| age(&cache.path().join(name), 40));
        assert_eq!(build_in(cache.path(), &options("first")).unwrap(), first);
        let second = build_in(cache.path(), &options("second")).unwrap();
        let left = listed(cache.path());
        let gone: Vec<&String> = parts.iter().filter(|name| !left.contains(name)).collect();
        // The runtime and the headers served both, the first library was found again; its kernel's object was not needed any more.
        assert!(
            first.exists() && second.exists() && gone.len() == 1 && gone[0].ends_with(".o"),
            "{gone:?} of {parts:?}"
        );
    }
}
