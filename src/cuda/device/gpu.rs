//! An NVIDIA GPU through the driver's API. The library is opened when the first device is asked for, so the binary starts on machines
//! without one.

mod driver;
mod functions;
mod graph;
mod memory;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use driver::{check_driver, driver_version, failed};
use functions::{Function, check_arguments, load, load_image, scalar};
pub use graph::Graph;
use graph::{Launched, fault, lock};
use memory::{Allocations, Pinned, SECTION_BYTES, Staging, keep_memory};

use super::multiprocessor::Multiprocessor;
use super::target::Target;
use super::{Argument, Device, DeviceError, Launch, Prepared, Span, Step};
use crate::ops::MemoryUse;

/// An overlapped copy to the host has so many bytes at most; larger ones are waited for.
const LANDING_BYTES: usize = 256 << 10;

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
    /// What overlapped copies to the host go through.
    landing: Mutex<Pinned>,
    allocations: Mutex<Allocations>,
    multiprocessor: Multiprocessor,
    target: Target,
    description: String,
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
        let pinned = |e| failed("pinning host memory", e);
        let staging = Mutex::new(Staging::new(&stream).map_err(pinned)?);
        let landing = Mutex::new(Pinned::new(&stream, LANDING_BYTES).map_err(pinned)?);
        let (launched, allocations) = (Launched::default(), Mutex::new(Allocations::new(has_pool)));
        Ok(Gpu {
            context,
            stream,
            functions,
            shared_bytes_max,
            launched,
            staging,
            landing,
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

    fn copy_out_overlapped(
        &self,
        to: &mut [u8],
        from: Span<'_>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), DeviceError> {
        if to.len() > LANDING_BYTES {
            self.copy_out(to, from)?;
            meanwhile();
            return Ok(());
        }
        assert_eq!(to.len(), from.bytes, "copy_out_overlapped: lengths");
        self.bind()?;
        let mut landing = lock(&self.landing);
        let part = landing.part(0, to.len());
        // SAFETY: a span is within live memory of its length; nobody else uses the pinned memory until the copy is done.
        let copied = unsafe { result::memcpy_dtoh_async(part, from.address, self.stream.cu_stream()) };
        let copied = copied.and_then(|()| self.stream.record_event(None));
        let copied = copied.map_err(|e| self.failed("copying from the GPU", e))?;
        meanwhile();
        copied.synchronize().map_err(|e| self.failed("copying from the GPU", e))?;
        to.copy_from_slice(part);
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
