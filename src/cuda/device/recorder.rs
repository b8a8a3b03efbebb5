//! A device that notes what it is asked to run, and whose new memory is full of NaN: whoever checks kernels knows which one had a result's
//! memory, and sees where none wrote.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::target::Target;
use super::{Argument, Device, DeviceError, Launch, Memory, Prepared, Span, Step};

/// Every byte of new memory: a NaN in bf16 and in f32, -1 as an index.
const UNWRITTEN: u8 = 0xFF;
/// New memory is filled by copies of this size.
const FILL_BYTES: usize = 4 << 20;

/// What was launched, and the memory that it was given.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The kernel's name.
    pub kernel: String,
    /// What its pointers and tables lead to.
    pub memory: Vec<Range<u64>>,
}

/// Another device, recorded.
pub struct Recorder {
    device: Arc<dyn Device>,
    fill: Memory,
    noted: Mutex<Vec<Noted>>,
}

impl Recorder {
    /// Records `device`.
    ///
    /// # Errors
    /// Where it has no memory to fill others from.
    pub fn new(device: Arc<dyn Device>) -> Result<Recorder, DeviceError> {
        let fill = Memory::new(&device, FILL_BYTES)?;
        device.copy_in(fill.span(), &vec![UNWRITTEN; FILL_BYTES])?;
        Ok(Recorder { device, fill, noted: Mutex::default() })
    }

    /// The launches since the last call, in order.
    pub fn take(&self) -> Vec<Noted> {
        std::mem::take(&mut *self.noted())
    }

    fn note(&self, kernel: &str, arguments: &[Argument<'_>]) {
        let addresses = |span: &Span<'_>| span.address..span.address + span.bytes as u64;
        let memory = arguments.iter().flat_map(|argument| match argument {
            Argument::Pointer(_, span) => vec![addresses(span)],
            Argument::Table(_, _, reached) => reached.iter().map(|piece| addresses(&piece.span)).collect(),
            _ => Vec::new(),
        });
        let memory = memory.collect();
        self.noted().push(Noted { kernel: kernel.to_owned(), memory });
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Recorder {
    fn name(&self) -> &'static str {
        self.device.name()
    }

    fn description(&self) -> String {
        self.device.description()
    }

    fn target(&self) -> Target {
        self.device.target()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let address = self.device.allocate(bytes)?;
        for offset in (0..bytes).step_by(FILL_BYTES) {
            let part = FILL_BYTES.min(bytes - offset);
            let to = Span { address: address + offset as u64, bytes: part, of: std::marker::PhantomData };
            self.device.copy(to, self.fill.span().part(0, part))?;
        }
        Ok(address)
    }

    fn free(&self, address: u64) {
        self.device.free(address);
    }

    fn copy_in(&self, to: Span<'_>, from: &[u8]) -> Result<(), DeviceError> {
        self.device.copy_in(to, from)
    }

    fn copy_out(&self, to: &mut [u8], from: Span<'_>) -> Result<(), DeviceError> {
        self.device.copy_out(to, from)
    }

    fn copy_out_overlapped(
        &self,
        to: &mut [u8],
        from: Span<'_>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), DeviceError> {
        self.device.copy_out_overlapped(to, from, meanwhile)
    }

    fn copy(&self, to: Span<'_>, from: Span<'_>) -> Result<(), DeviceError> {
        self.device.copy(to, from)
    }

    fn zero(&self, to: Span<'_>) -> Result<(), DeviceError> {
        self.device.zero(to)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.note(launch.kernel, launch.arguments);
        self.device.launch(launch)
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        self.device.synchronise()
    }

    fn time(&self, work: &mut dyn FnMut()) -> Result<f64, DeviceError> {
        self.device.time(work)
    }

    fn prepare(&self, steps: Vec<Step>) -> Result<Prepared, DeviceError> {
        for step in &steps {
            if let Step::Launch { kernel, arguments, .. } = step {
                self.note(kernel, arguments);
            }
        }
        self.device.prepare(steps)
    }
}
