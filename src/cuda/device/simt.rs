//! The host as a device: the kernels' sources, compiled by the host's C++ compiler against `kernels/simt/`, a fiber for each thread.
//! Checked, it watches every access and says which thread of which kernel went wrong, and where; unchecked, it is for whole models.

pub mod counts;
mod library;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use libloading::Library;

use self::counts::Counts;
use super::target::Target;
use super::{Argument, Device, DeviceError, Launch, Reached, Span};
use crate::cuda::kernels;
use crate::ops::MemoryUse;

/// Whose tensor cores are played; their roundings differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// Compute capability 8.0: A100.
    Sm80,
    /// Compute capability 9.0: H100, H200.
    Sm90,
}

impl Architecture {
    /// The architecture of a device; none where it is another.
    pub fn of(target: Target) -> Option<Architecture> {
        [Architecture::Sm80, Architecture::Sm90].into_iter().find(|architecture| architecture.target() == target)
    }

    fn target(self) -> Target {
        match self {
            Architecture::Sm80 => Target::SM_80,
            Architecture::Sm90 => Target::SM_90,
        }
    }
}

/// How a host device is made.
#[derive(Clone, Debug)]
pub struct SimtOptions {
    /// Whether every access is watched.
    pub checked: bool,
    /// The GPU whose tensor cores are played.
    pub architecture: Architecture,
    /// Threads of the system for a launch; a checked one has one, so that its reports are the same on every run.
    pub threads: usize,
    /// The kernels: path (for messages) and text.
    pub units: Vec<(String, String)>,
}

impl SimtOptions {
    /// The kernels of this crate, watched.
    pub fn checked() -> SimtOptions {
        let units = kernels::units().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        SimtOptions { checked: true, architecture: Architecture::Sm90, threads: 1, units }
    }

    /// The kernels of this crate, at speed on all cores.
    pub fn fast() -> SimtOptions {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        SimtOptions { checked: false, threads, ..SimtOptions::checked() }
    }
}

/// The host as a device.
pub struct Simt {
    api: Api,
    handle: *mut c_void,
    library: &'static Library,
    path: PathBuf,
    options: SimtOptions,
}

// SAFETY: the library locks what launches and allocations share.
unsafe impl Send for Simt {}
// SAFETY: as above.
unsafe impl Sync for Simt {}

/// The functions of `kernels/simt/device.cpp`.
struct Api {
    open: unsafe extern "C" fn(c_int, c_uint) -> *mut c_void,
    close: unsafe extern "C" fn(*mut c_void),
    allocate: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void),
    copy_in: unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_void, usize),
    copy_out: unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_void, usize) -> usize,
    copy: unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_void, usize),
    zero: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
    launch: unsafe extern "C" fn(*mut c_void, *const RawLaunch, *mut c_char, usize) -> bool,
    count: unsafe extern "C" fn(*mut c_void),
    counts: unsafe extern "C" fn(*mut c_void, usize, *mut *const c_char, *mut Counts) -> bool,
}

/// `simt_argument` of `kernels/simt/device.cpp`.
#[repr(C)]
struct RawArgument {
    kind: u32,
    value: u64,
    bytes: u64,
    role: *const c_char,
}

/// `simt_launch_description` of `kernels/simt/device.cpp`.
#[repr(C)]
struct RawLaunch {
    entry: *const c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: usize,
    arguments: *const RawArgument,
    arguments_count: usize,
    reached: *const RawArgument,
    reached_count: usize,
}

/// Room for a launch's reports.
const REPORT_BYTES: usize = 8192;

impl Simt {
    /// Compiles what is not in the cache yet, and loads it.
    pub fn new(options: SimtOptions) -> Result<Simt, DeviceError> {
        let path = library::build(&options)?;
        let failed = |error: libloading::Error| DeviceError::Driver {
            what: format!("loading {}", path.display()),
            message: error.to_string(),
        };
        // SAFETY: the library is our own; loading it runs no code.
        let library = unsafe { Library::new(&path) }.map_err(failed)?;
        // It stays loaded: threads of the system that ran blocks hold stacks that its code frees.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of kernels/simt/device.cpp, which is part of the library's hash.
        let api = unsafe {
            Api {
                open: *library.get(b"simt_open\0").map_err(failed)?,
                close: *library.get(b"simt_close\0").map_err(failed)?,
                allocate: *library.get(b"simt_allocate\0").map_err(failed)?,
                free: *library.get(b"simt_free\0").map_err(failed)?,
                copy_in: *library.get(b"simt_copy_in\0").map_err(failed)?,
                copy_out: *library.get(b"simt_copy_out\0").map_err(failed)?,
                copy: *library.get(b"simt_copy\0").map_err(failed)?,
                zero: *library.get(b"simt_zero\0").map_err(failed)?,
                launch: *library.get(b"simt_launch\0").map_err(failed)?,
                count: *library.get(b"simt_count\0").map_err(failed)?,
                counts: *library.get(b"simt_counts\0").map_err(failed)?,
            }
        };
        let Target { major, minor } = options.architecture.target();
        // SAFETY: a plain constructor.
        let handle = unsafe { (api.open)((10 * major + minor) as c_int, options.threads as c_uint) };
        Ok(Simt { api, handle, library, path, options })
    }

    /// From here on counts what each kernel does, from zero. Only a checked device counts.
    pub fn count(&self) {
        // SAFETY: a live handle.
        unsafe { (self.api.count)(self.handle) }
    }

    /// What each kernel did since [`Simt::count`], by its name.
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        let kernel = |number| {
            let (mut name, mut counts) = (std::ptr::null(), Counts::default());
            // SAFETY: a live handle; where it says that there is such a kernel, it has written both.
            let is_there = unsafe { (self.api.counts)(self.handle, number, &raw mut name, &raw mut counts) };
            // SAFETY: a string of the handle's, which nobody changes before the next `count`.
            is_there.then(|| (unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(), counts))
        };
        (0..).map_while(kernel).collect()
    }

    /// Turns each `{+0x…}`, a place in the library, into file and line where the machine has addr2line.
    fn with_lines(&self, report: &str) -> String {
        let mut text = String::new();
        let mut rest = report;
        while let Some((before, after)) = rest.split_once("{+") {
            let (offset, after) = after.split_once('}').unwrap_or((after, ""));
            text.push_str(before);
            text.push_str(&self.line_of(offset).unwrap_or_else(|| format!("code {offset}")));
            rest = after;
        }
        text + rest
    }

    fn line_of(&self, offset: &str) -> Option<String> {
        let output = Command::new("addr2line").arg("-ie").arg(&self.path).arg(offset).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let names = text.lines().filter_map(|line| line.rsplit('/').next()?.split_whitespace().next());
        let lines: Vec<&str> = names.filter(|name| !name.starts_with('?') && !name.starts_with("simt.h")).collect();
        // A helper's line says little without the line that called it.
        match lines[..] {
            [] => None,
            [line] => Some(line.to_owned()),
            [innermost, .., outermost] => Some(format!("{innermost}, called from {outermost}")),
        }
    }
}

impl Drop for Simt {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and nobody can use it any more.
        unsafe { (self.api.close)(self.handle) }
    }
}

impl Device for Simt {
    fn name(&self) -> &'static str {
        "simt"
    }

    fn description(&self) -> String {
        let form = if self.options.checked { "every access checked" } else { "unchecked" };
        format!("the host, thread by thread, {form}, {:?} tensor cores", self.options.architecture)
    }

    fn target(&self) -> Target {
        self.options.architecture.target()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        // SAFETY: a live handle.
        let memory = unsafe { (self.api.allocate)(self.handle, bytes) };
        if memory.is_null() {
            Err(DeviceError::OutOfMemory { bytes, usage: MemoryUse::default() })
        } else {
            Ok(memory as u64)
        }
    }

    fn free(&self, address: u64) {
        // SAFETY: `Memory` frees what it allocated, once.
        unsafe { (self.api.free)(self.handle, address as *mut c_void) }
    }

    fn copy_in(&self, to: Span<'_>, from: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.len(), "copy_in: lengths");
        // SAFETY: a span is within live memory of its length.
        unsafe { (self.api.copy_in)(self.handle, to.address as *mut c_void, from.as_ptr().cast(), to.bytes) }
        Ok(())
    }

    fn copy_out(&self, to: &mut [u8], from: Span<'_>) -> Result<(), DeviceError> {
        assert_eq!(to.len(), from.bytes, "copy_out: lengths");
        // SAFETY: a span is within live memory of its length.
        let known = unsafe {
            (self.api.copy_out)(self.handle, to.as_mut_ptr().cast(), from.address as *const c_void, from.bytes)
        };
        if known == from.bytes {
            return Ok(());
        }
        Err(DeviceError::Fault(format!(
            "a copy to the host of {} bytes reads byte {known}, where nobody wrote; look at the launch that should fill it",
            from.bytes
        )))
    }

    fn copy(&self, to: Span<'_>, from: Span<'_>) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.bytes, "copy: lengths");
        // SAFETY: spans are within live memory of their length.
        unsafe { (self.api.copy)(self.handle, to.address as *mut c_void, from.address as *const c_void, to.bytes) }
        Ok(())
    }

    fn zero(&self, to: Span<'_>) -> Result<(), DeviceError> {
        // SAFETY: a span is within live memory of its length.
        unsafe { (self.api.zero)(self.handle, to.address as *mut c_void, to.bytes) }
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let symbol = format!("simt_entry_{}", launch.kernel);
        // SAFETY: only the constant's address is taken.
        let entry = unsafe { self.library.get::<*const c_void>(symbol.as_bytes()) };
        let entry = *entry.map_err(|_| DeviceError::UnknownKernel(launch.kernel.to_owned()))?;
        let role = |name: &str| CString::new(name).expect("a role has no zero byte");
        let roles: Vec<CString> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Pointer(name, _) | Argument::Table(name, ..) => role(name),
                _ => CString::default(),
            })
            .collect();
        let tables = launch.arguments.iter().filter_map(|argument| match argument {
            Argument::Table(_, _, reached) => Some(*reached),
            _ => None,
        });
        let pieces: Vec<(&Reached<'_>, CString)> = tables.flatten().map(|piece| (piece, role(piece.role))).collect();
        let reached: Vec<RawArgument> = pieces
            .iter()
            .map(|(piece, role)| RawArgument {
                kind: u32::from(piece.is_written),
                value: piece.span.address,
                bytes: piece.span.bytes as u64,
                role: role.as_ptr(),
            })
            .collect();
        let raw = |(argument, role): (&Argument<'_>, &CString)| {
            let (kind, value, bytes) = match argument {
                Argument::Pointer(_, span) | Argument::Table(_, span, _) => (0, span.address, span.bytes as u64),
                Argument::Null => (0, 0, 0),
                Argument::I32(x) => (2, u64::from(*x as u32), 0),
                Argument::F32(x) => (3, u64::from(x.to_bits()), 0),
                Argument::I64(x) => (4, *x as u64, 0),
                Argument::Struct(of) => (5, of.as_bytes().as_ptr() as u64, of.as_bytes().len() as u64),
            };
            RawArgument { kind, value, bytes, role: role.as_ptr() }
        };
        let arguments: Vec<RawArgument> = launch.arguments.iter().zip(&roles).map(raw).collect();
        let description = RawLaunch {
            entry,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            arguments: arguments.as_ptr(),
            arguments_count: arguments.len(),
            reached: reached.as_ptr(),
            reached_count: reached.len(),
        };
        let mut report = vec![0u8; REPORT_BYTES];
        // SAFETY: the description and what it points to live through the call, and pointers are checked to be this device's where
        // accesses are watched; the unchecked form runs the same, tested kernels.
        let is_sound =
            unsafe { (self.api.launch)(self.handle, &description, report.as_mut_ptr().cast(), report.len()) };
        if is_sound {
            return Ok(());
        }
        let end = report.iter().position(|byte| *byte == 0).unwrap_or(report.len());
        Err(DeviceError::Fault(self.with_lines(&String::from_utf8_lossy(&report[..end]))))
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn time(&self, work: &mut dyn FnMut()) -> Result<f64, DeviceError> {
        let start = Instant::now();
        work();
        Ok(start.elapsed().as_secs_f64())
    }
}
