//! Where kernels run. A launch is data: a name, a grid, a block, shared bytes, typed arguments; whoever writes it down does not know
//! whether a GPU takes it ([`gpu`]) or the host ([`simt`]).

pub mod gpu;
pub mod simt;

use std::sync::Arc;

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Something that has to be installed.
    #[error("{0}")]
    Missing(String),
    /// No memory left.
    #[error("the device has no {bytes} bytes left")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A kernel does not compile.
    #[error("{unit} does not compile:\n{message}")]
    Compile {
        /// The source.
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
    /// The driver's words.
    #[error("{what}: {message}")]
    Driver {
        /// What was tried.
        what: String,
        /// Its answer.
        message: String,
    },
    /// Files of the kernel cache.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A place for kernels and their memory. Calls follow one another in the order in which they are made; copies are done when they return.
pub trait Device: Send + Sync {
    /// Short name for messages: `"simt"`, `"gpu"`.
    fn name(&self) -> &'static str;
    /// The machine, in words.
    fn description(&self) -> String;
    /// Takes memory whose contents are undefined; returns its address.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;
    /// Gives memory back.
    fn free(&self, address: u64);
    /// Copies from the host. Panics unless the lengths agree, as the other copies do.
    fn copy_in(&self, to: Span<'_>, from: &[u8]) -> Result<(), DeviceError>;
    /// Copies to the host.
    fn copy_out(&self, to: &mut [u8], from: Span<'_>) -> Result<(), DeviceError>;
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
}

/// A kernel's run.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name after `extern "C" __global__`.
    pub kernel: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block; their product is a multiple of 32.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Argument<'a>],
}

/// What a kernel is given.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    /// Memory, under the name that reports use: the kernel may touch these bytes and no others.
    Pointer(&'a str, Span<'a>),
    /// A pointer to nothing, for what is optional.
    Null,
    /// A C++ `int` or `unsigned`.
    I32(i32),
    /// A C++ `float`.
    F32(f32),
    /// A C++ 64-bit integer.
    I64(i64),
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
