//! Where kernels run. A launch is data: a name, a grid, a block, shared bytes, typed arguments; whoever writes it down does not know
//! whether a GPU takes it ([`gpu`]) or the host ([`simt`]).

pub mod gpu;
pub mod multiprocessor;
pub mod recorder;
pub mod simt;
pub mod target;
pub mod tensor_core;

use std::sync::Arc;

use bytemuck::Pod;

use crate::ops::MemoryUse;
use target::Target;

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Something that has to be installed.
    #[error("{0}")]
    Missing(String),
    /// No memory left.
    #[error("the device has no {bytes} bytes left: the run holds {}, {} of them beyond what was planned", .usage.held, .usage.beyond)]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// What is held, where the device's owner counts it.
        usage: MemoryUse,
    },
    /// A kernel does not compile.
    #[error("{unit} does not compile:\n{message}")]
    Compile {
        /// Path of the kernel source, or what was linked.
        unit: String,
        /// The compiler's words.
        message: String,
    },
    /// Nobody defines the kernel.
    #[error("there is no kernel {0}; look at the names after `extern \"C\" __global__` in kernels/*.cu")]
    UnknownKernel(String),
    /// The device found that a kernel is wrong; a line for each of the first few faults.
    #[error("{0}")]
    Fault(String),
    /// An error of the driver; on `simt` one of loading the compiled library.
    #[error("{what}: {message}")]
    Driver {
        /// What was tried.
        what: String,
        /// What the driver or the loader said.
        message: String,
    },
    /// A file of the kernel cache cannot be read or written, or the compiler cannot be run.
    #[error("{path}: {source}")]
    Io {
        /// The file, or the compiler that cannot be run.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A place for kernels and their memory. Calls follow one another in the order in which they are made; when a copy returns, the
/// host's values have been read or written.
pub trait Device: Send + Sync {
    /// Short name for messages: `"simt"`, `"gpu"`.
    fn name(&self) -> &'static str;
    /// The machine, in words.
    fn description(&self) -> String;
    /// What it is, as far as kernels differ by it.
    fn target(&self) -> Target;
    /// Takes memory whose contents are undefined; returns its address.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;
    /// Gives memory back.
    fn free(&self, address: u64);
    /// Copies from the host. Panics unless the lengths agree, as the other copies do.
    fn copy_in(&self, to: Span<'_>, from: &[u8]) -> Result<(), DeviceError>;
    /// Copies to the host.
    fn copy_out(&self, to: &mut [u8], from: Span<'_>) -> Result<(), DeviceError>;
    /// Copies to the host. Calls `meanwhile` before it waits for the copy: what that launches comes behind it, and is not waited for.
    fn copy_out_overlapped(
        &self,
        to: &mut [u8],
        from: Span<'_>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), DeviceError> {
        self.copy_out(to, from)?;
        meanwhile();
        Ok(())
    }
    /// Copies within the device.
    fn copy(&self, to: Span<'_>, from: Span<'_>) -> Result<(), DeviceError>;
    /// Sets every byte to zero.
    fn zero(&self, to: Span<'_>) -> Result<(), DeviceError>;
    /// Runs a kernel, or puts it behind what runs.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError>;
    /// Waits until all is done.
    fn synchronise(&self) -> Result<(), DeviceError>;
    /// Seconds from the beginning to the end of what `work` launches, by the device's own clock.
    fn time(&self, work: &mut dyn FnMut()) -> Result<f64, DeviceError>;
    /// Makes steps ready to be repeated.
    fn prepare(&self, steps: Vec<Step>) -> Result<Prepared, DeviceError> {
        Ok(Prepared::Steps(steps))
    }
}

/// What a device does without the host looking at values: the parts of a captured graph.
#[derive(Clone, Debug)]
pub enum Step {
    /// A launch of a kernel.
    Launch {
        /// As in [`Launch`].
        kernel: String,
        /// As in [`Launch`].
        grid: [u32; 3],
        /// As in [`Launch`].
        block: [u32; 3],
        /// As in [`Launch`].
        shared_bytes: usize,
        /// As in [`Launch`].
        arguments: Vec<Argument<'static>>,
    },
    /// A copy within the device.
    Copy {
        /// Where the bytes go.
        to: Span<'static>,
        /// Where the bytes come from.
        from: Span<'static>,
    },
    /// Memory is set to zero.
    Zero {
        /// What is set to zero.
        to: Span<'static>,
    },
}

/// Steps as a device repeats them.
#[derive(Debug)]
pub enum Prepared {
    /// One after the other.
    Steps(Vec<Step>),
    /// As one graph of the driver's.
    Graph(gpu::Graph),
}

impl Prepared {
    /// Does it all on `device`, which prepared it. What the steps touch has to be there still.
    pub fn repeat(&self, device: &dyn Device) -> Result<(), DeviceError> {
        match self {
            Prepared::Steps(steps) => steps.iter().try_for_each(|step| step.play(device)),
            Prepared::Graph(graph) => graph.launch(),
        }
    }
}

impl Step {
    /// Does it on `device`.
    pub fn play(&self, device: &dyn Device) -> Result<(), DeviceError> {
        match self {
            Step::Launch { kernel, grid, block, shared_bytes, arguments } => {
                let (grid, block, shared_bytes) = (*grid, *block, *shared_bytes);
                device.launch(&Launch { kernel, grid, block, shared_bytes, arguments })
            }
            Step::Copy { to, from } => device.copy(*to, *from),
            Step::Zero { to } => device.zero(*to),
        }
    }
}

impl From<&Launch<'_>> for Step {
    fn from(launch: &Launch<'_>) -> Step {
        let unbound = |argument: &Argument<'_>| match *argument {
            Argument::Pointer(role, span) => Argument::Pointer(role, span.unbound()),
            Argument::Table(role, ..) => {
                panic!("`{role}` is a table, which is uploaded, and an upload cannot be captured")
            }
            Argument::Null => Argument::Null,
            Argument::I32(x) => Argument::I32(x),
            Argument::F32(x) => Argument::F32(x),
            Argument::I64(x) => Argument::I64(x),
            Argument::Struct(x) => Argument::Struct(x),
        };
        Step::Launch {
            kernel: launch.kernel.to_owned(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            arguments: launch.arguments.iter().map(unbound).collect(),
        }
    }
}

/// A kernel's run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name after `extern "C" __global__`.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block; their product is a multiple of 32.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Argument<'a>],
}

/// Memory whose address a kernel finds in a table. No two pieces overlap.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    /// What reports call it.
    pub role: &'static str,
    /// Where it is.
    pub span: Span<'a>,
    /// Whether the kernel may write it.
    pub is_written: bool,
}

/// What a kernel is given.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    /// Memory, under the name that reports use: the kernel may touch these bytes and no others.
    Pointer(&'static str, Span<'a>),
    /// The same, of memory that holds addresses: the kernel may touch what is there too.
    Table(&'static str, Span<'a>, &'a [Reached<'a>]),
    /// A pointer to nothing, for what is optional.
    Null,
    /// A C++ `int` or `unsigned`.
    I32(i32),
    /// A C++ `float`.
    F32(f32),
    /// A C++ 64-bit integer.
    I64(i64),
    /// A C++ struct by value.
    Struct(StructBytes),
}

impl Argument<'_> {
    /// A struct by value, of a type that `build.rs` made of the kernel's. Panics if it is larger than [`StructBytes`] holds.
    pub fn by_value<T: Pod>(of: &T) -> Argument<'static> {
        Argument::Struct(StructBytes::new(bytemuck::bytes_of(of)))
    }
}

/// Room for the largest struct by value that CUDA itself defines, a tensor map.
const STRUCT_WORDS_MAX: usize = 16;

/// The bytes of a struct, with the alignment of a `u64`.
#[derive(Clone, Copy, Debug)]
pub struct StructBytes {
    words: [u64; STRUCT_WORDS_MAX],
    bytes: usize,
}

impl StructBytes {
    /// At most 128 bytes.
    pub fn new(bytes: &[u8]) -> StructBytes {
        let mut words = [0; STRUCT_WORDS_MAX];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        StructBytes { words, bytes: bytes.len() }
    }

    /// All of them.
    pub fn as_bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }
}

/// Memory of a device, given back on drop.
pub struct Memory {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Takes `bytes` of undefined contents.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Memory, DeviceError> {
        Ok(Memory { device: device.clone(), address: device.allocate(bytes)?, bytes })
    }

    /// All of it.
    pub fn span(&self) -> Span<'_> {
        Span { address: self.address, bytes: self.bytes, of: std::marker::PhantomData }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.free(self.address);
    }
}

/// Bytes of a device that someone holds.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    address: u64,
    bytes: usize,
    of: std::marker::PhantomData<&'a Memory>,
}

impl Span<'_> {
    /// The same bytes, for one who sees to it that they live.
    pub fn unbound(self) -> Span<'static> {
        Span { address: self.address, bytes: self.bytes, of: std::marker::PhantomData }
    }

    /// Where it begins.
    pub fn address(self) -> u64 {
        self.address
    }

    /// `bytes` of it from `offset` on. Panics if they are not within it.
    pub fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        Span { address: self.address + offset as u64, bytes, ..self }
    }

    /// How many bytes.
    pub fn bytes(self) -> usize {
        self.bytes
    }
}
