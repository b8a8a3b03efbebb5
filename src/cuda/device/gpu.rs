//! An NVIDIA GPU through the driver's API. The library is opened when the first device is asked for, so the binary starts on machines
//! without one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, sys};

use super::multiprocessor::{Load, Multiprocessor};
use super::target::{Target, Variant};
use super::{Argument, Device, DeviceError, Launch, Prepared, Span, Step};
use crate::cuda::kernels::{self, Parameter};
use crate::ops::MemoryUse;

/// The oldest driver that takes images of nvcc 13.0, as `cuDriverGetVersion` counts.
const DRIVER_MIN: i32 = 13_000;

/// One GPU, its kernels loaded.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: BTreeMap<&'static str, Function>,
    /// The shared memory that a block may have.
    shared_bytes_max: usize,
    /// Kernels launched since the last wait. A fault shows at a later call, and one of them is at fault.
    launched: Launched,
    staging: Mutex<Staging>,
    allocations: Mutex<Allocations>,
    multiprocessor: Multiprocessor,
    target: Target,
    description: String,
}

/// Names of kernels, shared with the graphs that launch them.
type Launched = Arc<Mutex<BTreeSet<&'static str>>>;

/// A captured run of kernels.
pub struct Graph {
    graph: CudaGraph,
    kernels: BTreeSet<&'static str>,
    launched: Launched,
}

// SAFETY: a handle that any thread may use once the context is bound to it, which a launch does. Whoever launches holds the backend's
// one stream of work: the engine, on one thread.
unsafe impl Send for Graph {}
// SAFETY: as above; launching does not change the graph.
unsafe impl Sync for Graph {}

impl Graph {
    /// Launches all of it.
    pub fn launch(&self) -> Result<(), DeviceError> {
        lock(&self.launched).extend(&self.kernels);
        self.graph.launch().map_err(|e| fault(&self.launched, "launching a graph", e))
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph of {:?}", self.kernels)
    }
}

/// A kernel of a loaded image.
struct Function {
    handle: sys::CUfunction,
    parameters: Vec<Parameter>,
    /// Of a thread.
    registers: usize,
    /// Static shared bytes.
    fixed_bytes: usize,
    /// The shared bytes of a block, static and dynamic, that its share of fast memory is for.
    preferred_bytes: AtomicUsize,
}

impl Function {
    /// Prefers as much shared memory as lets a multiprocessor hold all the blocks that registers allow, if no launch before wanted as much.
    fn prefer_shared(
        &self,
        name: &str,
        dynamic_bytes: usize,
        multiprocessor: &Multiprocessor,
    ) -> Result<(), DriverError> {
        let shared_bytes = self.fixed_bytes + dynamic_bytes;
        if shared_bytes <= self.preferred_bytes.fetch_max(shared_bytes, Ordering::Relaxed) {
            return Ok(());
        }
        let load = Load { threads: kernels::threads(name), registers: self.registers, shared_bytes };
        let carveout = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        let percent = multiprocessor.carveout_percent(load);
        // SAFETY: a function of a loaded module.
        unsafe { result::function::set_function_attribute(self.handle, carveout, percent) }
    }
}

/// From this size on memory is the driver's own, not a pool's: a pool would keep it, and it is taken once.
const POOLED_BYTES_MAX: usize = 1 << 30;

/// How memory was taken: from the device's pool, in the stream's order, or, where it has none or is asked for much, plainly.
#[derive(Debug)]
struct Allocations {
    has_pool: bool,
    plain: BTreeSet<u64>,
}

impl Allocations {
    fn new(has_pool: bool) -> Allocations {
        Allocations { has_pool, plain: BTreeSet::new() }
    }

    fn is_pooled(&self, bytes: usize) -> bool {
        self.has_pool && bytes < POOLED_BYTES_MAX
    }

    fn note_plain(&mut self, address: u64) {
        self.plain.insert(address);
    }

    /// Whether memory that is given back was taken plainly.
    fn forget_plain(&mut self, address: u64) -> bool {
        self.plain.remove(&address)
    }
}

// SAFETY: functions are handles that any thread may use once the context is bound to it, which every call does.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens the GPU that CUDA calls `ordinal` and loads the images that fit it.
    pub fn new(ordinal: usize) -> Result<Gpu, DeviceError> {
        // SAFETY: it only tries to open the driver's library. Any other call would panic where there is none.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::Missing(
                "there is no NVIDIA driver (libcuda) on this machine; use --device cpu, or install the driver"
                    .to_owned(),
            ));
        }
        check_driver()?;
        let context = CudaContext::new(ordinal).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_STUB_LIBRARY => DeviceError::Missing(
                "the NVIDIA driver finds no GPU; use --device cpu, or look at nvidia-smi".to_owned(),
            ),
            _ => failed(&format!("opening GPU {ordinal}"), error),
        })?;
        let attribute_of = |attribute, what: &str| context.attribute(attribute).map_err(|e| failed(what, e));
        let pools = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        let has_pool = attribute_of(pools, "asking for memory pools")? != 0;
        if has_pool {
            keep_memory(&context)?;
        }
        let stream = context.new_stream().map_err(|e| failed("making a stream", e))?;
        let (major, minor) =
            context.compute_capability().map_err(|e| failed("asking for the compute capability", e))?;
        let target = Target { major: major as u32, minor: minor as u32 };
        let variant = target
            .variant()
            .ok_or_else(|| DeviceError::Missing(format!("{target}: the kernels need 8.0 (A100) or more")))?;
        let name = context.name().unwrap_or_else(|_| "a GPU".to_owned());
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_bytes_max = attribute_of(attribute, "asking for shared memory")?;
        let multiprocessor = multiprocessor(&context)?;
        let functions = load(variant, shared_bytes_max, &multiprocessor)?;
        let description = format!("{name}, {target}, kernels for {}", variant.name());
        let shared_bytes_max = shared_bytes_max as usize;
        let staging = Mutex::new(Staging::new(&stream).map_err(|e| failed("pinning host memory", e))?);
        let (launched, allocations) = (Launched::default(), Mutex::new(Allocations::new(has_pool)));
        Ok(Gpu {
            context,
            stream,
            functions,
            shared_bytes_max,
            launched,
            staging,
            allocations,
            multiprocessor,
            target,
            description,
        })
    }

    /// Loads the kernels of one more source, which is not part of the program, from its image as nvcc makes it.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the image is for another GPU or lacks a kernel of the source.
    pub fn load_image(&mut self, unit: &str, text: &'static str, image: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let more = load_image(unit, text, image, self.shared_bytes_max as i32, &self.multiprocessor)?;
        self.functions.extend(more);
        Ok(())
    }

    /// Its address on the PCI bus, as NVML takes it.
    pub fn pci_bus_id(&self) -> Result<String, DeviceError> {
        use sys::CUdevice_attribute_enum as Attribute;
        let number = |attribute| {
            self.context.attribute(attribute).map_err(|e| failed("asking for the address on the PCI bus", e))
        };
        let domain = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Ok(format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
    }

    /// Its UUID, as nvidia-smi has it.
    pub fn uuid(&self) -> Result<String, DeviceError> {
        let uuid = self.context.uuid().map_err(|e| failed("asking for the UUID", e))?;
        let digits: Vec<String> = uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
        let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| digits[range].concat());
        Ok(format!("GPU-{}", parts.join("-")))
    }

    /// The CUDA version that the driver is made for, as in `13.0`.
    pub fn driver_version(&self) -> Result<String, DeviceError> {
        let version = driver_version()?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// Memory that nobody uses.
    pub fn free_bytes(&self) -> Result<u64, DeviceError> {
        let (free, _) = self.context.mem_get_info().map_err(|e| failed("asking for free memory", e))?;
        Ok(free as u64)
    }

    fn failed(&self, what: &str, error: DriverError) -> DeviceError {
        fault(&self.launched, what, error)
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(|e| failed("binding the context", e))
    }
}

/// What a call's error says: its own, or that of a kernel launched before it.
fn fault(launched: &Launched, what: &str, error: DriverError) -> DeviceError {
    // 700 to 799 but for 701 are the faults of running kernels; the context is of no more use after one.
    let code = error.0 as u32;
    if !(700..800).contains(&code) || code == 701 {
        return failed(what, error);
    }
    let names: Vec<&str> = lock(launched).iter().copied().collect();
    let names = names.join(", ");
    DeviceError::Fault(format!(
        "the GPU stopped with {error:?}; at fault is one of the kernels launched since the last wait: {names}. Checkpoints are as they \
         were; compute-sanitizer finds the access"
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses a driver that would refuse the kernels, in words.
fn check_driver() -> Result<(), DeviceError> {
    let version = driver_version()?;
    if version >= DRIVER_MIN {
        return Ok(());
    }
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Err(DeviceError::Missing(format!(
        "the NVIDIA driver is made for CUDA {major}.{minor}, the kernels need 13.0: install driver 580 or newer, or use --device cpu"
    )))
}

fn driver_version() -> Result<i32, DeviceError> {
    let mut version = 0;
    // SAFETY: `Gpu::new` has seen that the library is there; the driver writes a number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|e| failed("asking for the driver's version", e))?;
    Ok(version)
}

/// Memory that is given back stays with the process for the next tensor: by default each wait would return it to the driver.
fn keep_memory(context: &CudaContext) -> Result<(), DeviceError> {
    let what = "preparing the memory pool";
    let mut pool = std::ptr::null_mut();
    // SAFETY: a live context's device; the driver writes the pool's handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }
        .result()
        .map_err(|e| failed(what, e))?;
    let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut threshold = u64::MAX;
    // SAFETY: this attribute is a u64, which the driver reads before it returns.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }
        .result()
        .map_err(|e| failed(what, e))
}

fn multiprocessor(context: &CudaContext) -> Result<Multiprocessor, DeviceError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let number = |attribute| {
        let number = context.attribute(attribute).map_err(|e| failed("asking for the multiprocessors", e))?;
        Ok::<usize, DeviceError>(number as usize)
    };
    Ok(Multiprocessor {
        registers: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
        threads: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        blocks: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
        shared_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        reserved_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)?,
    })
}

/// The kernels of a variant, allowed to ask for all the shared memory that a block may have.
fn load(
    variant: Variant,
    shared_bytes_max: i32,
    multiprocessor: &Multiprocessor,
) -> Result<BTreeMap<&'static str, Function>, DeviceError> {
    let mut functions = BTreeMap::new();
    for (unit, text) in kernels::units() {
        let image = kernels::IMAGES.iter().find(|(of, compiled, _)| *of == unit && *compiled == variant.name());
        let Some((_, _, image)) = image else {
            return Err(DeviceError::Missing(format!("no CUDA kernels are built in: {}", kernels::COMPILED)));
        };
        functions.extend(load_image(unit, text, image, shared_bytes_max, multiprocessor)?);
    }
    Ok(functions)
}

/// The kernels of a source's image.
fn load_image(
    unit: &str,
    text: &'static str,
    image: &[u8],
    shared_bytes_max: i32,
    multiprocessor: &Multiprocessor,
) -> Result<BTreeMap<&'static str, Function>, DeviceError> {
    let mut functions = BTreeMap::new();
    // PTX is text that ends with a zero byte.
    let mut image = image.to_vec();
    image.push(0);
    // SAFETY: a whole image, as nvcc made it. The module lives as long as the context.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
        .map_err(|e| failed(&format!("loading {unit}"), e))?;
    for name in kernels::names(text) {
        let symbol = CString::new(name).expect("a kernel's name has no zero byte");
        // SAFETY: a module that was loaded above.
        let handle = unsafe { result::module::get_function(module, symbol) }
            .map_err(|e| failed(&format!("finding the kernel {name} in {unit}"), e))?;
        let function = prepare(handle, name, kernels::parameters(text, name), shared_bytes_max, multiprocessor);
        functions.insert(name, function.map_err(|e| failed(&format!("preparing {name}"), e))?);
    }
    Ok(functions)
}

fn prepare(
    handle: sys::CUfunction,
    name: &str,
    parameters: Vec<Parameter>,
    shared_bytes_max: i32,
    multiprocessor: &Multiprocessor,
) -> Result<Function, DriverError> {
    use sys::CUfunction_attribute_enum as Attribute;
    let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: a function of a loaded module.
    let (fixed, registers) = unsafe {
        let fixed = result::function::get_function_attribute(handle, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        result::function::set_function_attribute(handle, dynamic, shared_bytes_max - fixed)?;
        (fixed, result::function::get_function_attribute(handle, Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?)
    };
    let (registers, fixed_bytes, preferred_bytes) = (registers as usize, fixed as usize, AtomicUsize::new(0));
    let function = Function { handle, parameters, registers, fixed_bytes, preferred_bytes };
    function.prefer_shared(name, 0, multiprocessor)?;
    Ok(function)
}

/// Bytes of a section of the staging memory; larger copies go in pieces.
const SECTION_BYTES: usize = 8 << 20;
/// Sections that are filled in turn.
const SECTIONS: usize = 4;
/// Where copies begin.
const STAGING_ALIGNMENT: usize = 256;

/// Pinned host memory that copies go through, so that the host need not wait for the GPU to have read its values: a ring of sections,
/// each filled from the front, and filled again when the copies from it are done.
struct Staging {
    memory: *mut u8,
    section: usize,
    used: usize,
    /// Behind the last copy of each section.
    done: [Option<CudaEvent>; SECTIONS],
    context: Arc<CudaContext>,
}

// SAFETY: plain memory of this struct's own.
unsafe impl Send for Staging {}

impl Staging {
    fn new(stream: &CudaStream) -> Result<Staging, DriverError> {
        let context = stream.context().clone();
        context.bind_to_thread()?;
        // SAFETY: freed on drop.
        let memory = unsafe { result::malloc_host(SECTIONS * SECTION_BYTES, 0) }?;
        Ok(Staging { memory: memory.cast(), section: 0, used: 0, done: std::array::from_fn(|_| None), context })
    }

    /// Memory for one copy of at most a section.
    fn take(&mut self, stream: &CudaStream, bytes: usize) -> Result<&mut [u8], DriverError> {
        if self.used + bytes > SECTION_BYTES {
            self.done[self.section] = Some(stream.record_event(None)?);
            self.section = (self.section + 1) % SECTIONS;
            self.used = 0;
            if let Some(done) = &self.done[self.section] {
                done.synchronize()?;
            }
        }
        let offset = self.section * SECTION_BYTES + self.used;
        self.used = (self.used + bytes).next_multiple_of(STAGING_ALIGNMENT);
        // SAFETY: within the section, which no copy reads any more.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.memory.add(offset), bytes) })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() && self.context.synchronize().is_ok() {
            // SAFETY: allocated in `new`; nothing is under way any more.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}

/// Refuses arguments of which the driver would read other bytes than were meant.
fn check_arguments(kernel: &str, parameters: &[Parameter], arguments: &[Argument<'_>]) -> Result<(), DeviceError> {
    let (taken, given) = (parameters.len(), arguments.len());
    if taken != given {
        return Err(DeviceError::Fault(format!("{kernel} takes {taken} arguments, not {given}")));
    }
    let parameter_of = |argument: &Argument<'_>| match argument {
        Argument::Pointer(..) | Argument::Table(..) | Argument::Null => Parameter::Pointer,
        Argument::I32(_) => Parameter::I32,
        Argument::F32(_) => Parameter::F32,
        Argument::I64(_) => Parameter::I64,
        Argument::Struct(of) => Parameter::Struct(of.as_bytes().len()),
    };
    let wrong = arguments.iter().zip(parameters).position(|(argument, parameter)| parameter_of(argument) != *parameter);
    wrong.map_or(Ok(()), |number| {
        let expected = parameters[number];
        Err(DeviceError::Fault(format!("{kernel}: argument {number} is {:?}, not {expected:?}", arguments[number])))
    })
}

/// What a parameter that is no struct is given, in the lowest bytes.
fn scalar(argument: &Argument<'_>) -> u64 {
    match *argument {
        Argument::Pointer(_, span) | Argument::Table(_, span, _) => span.address,
        Argument::Null | Argument::Struct(_) => 0,
        Argument::I32(x) => u64::from(x as u32),
        Argument::F32(x) => u64::from(x.to_bits()),
        Argument::I64(x) => x as u64,
    }
}

fn failed(what: &str, error: DriverError) -> DeviceError {
    DeviceError::Driver { what: what.to_owned(), message: format!("{error:?}") }
}

impl Device for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn target(&self) -> Target {
        self.target
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.bind()?;
        let mut allocations = lock(&self.allocations);
        let is_pooled = allocations.is_pooled(bytes);
        // SAFETY: a live stream, or a bound context.
        let memory = unsafe {
            match is_pooled {
                true => result::malloc_async(self.stream.cu_stream(), bytes.max(1)),
                false => result::malloc_sync(bytes.max(1)),
            }
        };
        let address = memory.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes, usage: MemoryUse::default() },
            _ => self.failed("allocating", error),
        })?;
        if !is_pooled {
            allocations.note_plain(address);
        }
        Ok(address)
    }

    fn free(&self, address: u64) {
        let is_plain = lock(&self.allocations).forget_plain(address);
        // A context that a fault has ended refuses this too; whoever sees the fault reports it.
        if self.bind().is_err() {
            return;
        }
        let _ = match is_plain {
            // SAFETY: `Memory` frees what it allocated, once, and nothing that uses it is under way.
            true => self.stream.synchronize().and_then(|()| unsafe { result::free_sync(address) }),
            // SAFETY: the same, behind the work that uses it.
            false => unsafe { result::free_async(address, self.stream.cu_stream()) },
        };
    }

    /// The values wait in pinned memory until the stream is there; nobody waits for them.
    fn copy_in(&self, to: Span<'_>, from: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.len(), "copy_in: lengths");
        self.bind()?;
        let mut staging = lock(&self.staging);
        let parts = from.chunks(SECTION_BYTES).zip((to.address..).step_by(SECTION_BYTES));
        for (part, address) in parts {
            let copied = staging.take(&self.stream, part.len()).and_then(|pinned| {
                pinned.copy_from_slice(part);
                // SAFETY: a span is within live memory of its length; a section is not written again before its event.
                unsafe { result::memcpy_htod_async(address, pinned, self.stream.cu_stream()) }
            });
            copied.map_err(|e| self.failed("copying to the GPU", e))?;
        }
        Ok(())
    }

    fn copy_out(&self, to: &mut [u8], from: Span<'_>) -> Result<(), DeviceError> {
        assert_eq!(to.len(), from.bytes, "copy_out: lengths");
        self.bind()?;
        let mut staging = lock(&self.staging);
        for (part, address) in to.chunks_mut(SECTION_BYTES).zip((from.address..).step_by(SECTION_BYTES)) {
            let copied = staging.take(&self.stream, part.len()).and_then(|pinned| {
                // SAFETY: a span is within live memory of its length; the pinned memory lives until the stream is done.
                unsafe { result::memcpy_dtoh_async(pinned, address, self.stream.cu_stream()) }?;
                self.stream.synchronize()?;
                part.copy_from_slice(pinned);
                Ok(())
            });
            copied.map_err(|e| self.failed("copying from the GPU", e))?;
            lock(&self.launched).clear();
        }
        Ok(())
    }

    fn copy(&self, to: Span<'_>, from: Span<'_>) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.bytes, "copy: lengths");
        if to.bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: spans are within live memory of their length.
        unsafe { result::memcpy_dtod_async(to.address, from.address, to.bytes, self.stream.cu_stream()) }
            .map_err(|e| self.failed("copying on the GPU", e))
    }

    fn zero(&self, to: Span<'_>) -> Result<(), DeviceError> {
        if to.bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: a span is within live memory of its length.
        unsafe { result::memset_d8_async(to.address, 0, to.bytes, self.stream.cu_stream()) }
            .map_err(|e| self.failed("clearing", e))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let found = self.functions.get_key_value(launch.kernel);
        let (name, function) = found.ok_or_else(|| DeviceError::UnknownKernel(launch.kernel.to_owned()))?;
        check_arguments(name, &function.parameters, launch.arguments)?;
        lock(&self.launched).insert(name);
        self.bind()?;
        let what = || format!("launching {}", launch.kernel);
        if launch.shared_bytes > self.shared_bytes_max {
            let (wanted, most) = (launch.shared_bytes, self.shared_bytes_max);
            return Err(DeviceError::Missing(format!(
                "{name} needs {wanted} bytes of shared memory; a block of this GPU has {most}"
            )));
        }
        function
            .prefer_shared(name, launch.shared_bytes, &self.multiprocessor)
            .map_err(|e| failed(&format!("preparing {name}"), e))?;
        let scalars: Vec<u64> = launch.arguments.iter().map(scalar).collect();
        // The driver reads as many bytes of each as the kernel's parameter has, from the lowest.
        let parameter = |(argument, scalar): (&Argument<'_>, &u64)| match argument {
            Argument::Struct(of) => of.as_bytes().as_ptr().cast_mut().cast(),
            _ => std::ptr::from_ref(scalar).cast_mut().cast(),
        };
        let mut parameters: Vec<*mut c_void> = launch.arguments.iter().zip(&scalars).map(parameter).collect();
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        let stream = self.stream.cu_stream();
        let shared_bytes = launch.shared_bytes as u32;
        // SAFETY: the parameters live through the call, and their number and types are the kernel's. That it keeps to its spans is what
        // the simt device checks of the same launch code and the same source.
        unsafe { result::launch_kernel(function.handle, grid, block, shared_bytes, stream, &mut parameters) }
            .map_err(|e| self.failed(&what(), e))
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        self.bind()?;
        self.stream.synchronize().map_err(|e| self.failed("waiting for the GPU", e))?;
        lock(&self.launched).clear();
        Ok(())
    }

    fn prepare(&self, steps: Vec<Step>) -> Result<Prepared, DeviceError> {
        let what = "capturing a graph";
        let kernels = steps.iter().filter_map(|step| match step {
            Step::Launch { kernel, .. } => self.functions.get_key_value(kernel.as_str()).map(|(name, _)| *name),
            Step::Copy { .. } | Step::Zero { .. } => None,
        });
        let kernels = kernels.collect();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(|e| self.failed(what, e))?;
        let played = steps.iter().try_for_each(|step| step.play(self));
        // A capture that was begun has to be ended, whatever became of it.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        played?;
        let graph = graph.map_err(|e| self.failed(what, e))?.expect("a capture that was begun gives a graph");
        Ok(Prepared::Graph(Graph { graph, kernels, launched: self.launched.clone() }))
    }

    fn time(&self, work: &mut dyn FnMut()) -> Result<f64, DeviceError> {
        let mark = || {
            let event = self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|e| self.failed("recording an event", e))
        };
        let start = mark()?;
        work();
        let milliseconds = start.elapsed_ms(&mark()?).map_err(|e| self.failed("reading events", e))?;
        lock(&self.launched).clear();
        Ok(f64::from(milliseconds) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_not_the_kernels_are_refused() {
        let parameters = [Parameter::Pointer, Parameter::I64, Parameter::F32];
        let check =
            |arguments: &[Argument<'_>]| check_arguments("k", &parameters, arguments).map_err(|e| e.to_string());
        let sound = [Argument::Null, Argument::I64(1), Argument::F32(1.0)];
        assert_eq!(check(&sound), Ok(()));
        assert_eq!(check(&sound[..2]), Err("k takes 3 arguments, not 2".to_owned()));
        let narrow = [sound[0], Argument::I32(1), sound[2]];
        assert_eq!(check(&narrow), Err("k: argument 1 is I32(1), not I64".to_owned()));
        let by_value = |bytes| check_arguments("k", &[Parameter::Struct(bytes)], &[Argument::by_value(&[0f32; 3])]);
        assert!(by_value(12).is_ok());
        assert!(by_value(16).unwrap_err().to_string().ends_with(", not Struct(16)"));
    }

    #[test]
    fn memory_is_pooled_unless_there_is_no_pool_or_it_is_large() {
        let mut allocations = Allocations::new(true);
        assert!(allocations.is_pooled(0) && allocations.is_pooled(POOLED_BYTES_MAX - 1));
        assert!(!allocations.is_pooled(POOLED_BYTES_MAX) && !allocations.is_pooled(130 << 30));
        allocations.note_plain(512);
        assert!(!allocations.forget_plain(256));
        // An address that was given back may come again from the pool.
        assert!(allocations.forget_plain(512) && !allocations.forget_plain(512));
        let without = Allocations::new(false);
        assert!(!without.is_pooled(0) && !without.is_pooled(POOLED_BYTES_MAX));
    }

    #[test]
    fn a_machine_without_a_gpu_or_a_build_without_kernels_says_what_to_do() {
        match Gpu::new(0) {
            Ok(gpu) => assert!(gpu.description().contains("compute capability")),
            Err(DeviceError::Missing(remedy)) => {
                assert!(remedy.contains("driver") || remedy.contains("nvcc"), "{remedy}")
            }
            Err(other) => panic!("{other}"),
        }
    }
}
