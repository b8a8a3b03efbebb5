//! The kernels of loaded images, and what a launch gives them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::super::multiprocessor::{Load, Multiprocessor};
use super::super::target::Variant;
use super::super::{Argument, DeviceError};
use super::driver::failed;
use crate::cuda::kernels::{self, Parameter};

/// A kernel of a loaded image.
pub struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) parameters: Vec<Parameter>,
    /// Of a thread.
    registers: usize,
    /// Static shared bytes.
    fixed_bytes: usize,
    /// The shared bytes of a block, static and dynamic, that its share of fast memory is for.
    preferred_bytes: AtomicUsize,
}

impl Function {
    /// Prefers as much shared memory as lets a multiprocessor hold all the blocks that registers allow, if no launch before wanted as much.
    pub fn prefer_shared(
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

/// The kernels of a variant, allowed to ask for all the shared memory that a block may have.
pub fn load(
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
pub fn load_image(
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

pub fn prepare(
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

/// Refuses arguments of which the driver would read other bytes than were meant.
pub fn check_arguments(kernel: &str, parameters: &[Parameter], arguments: &[Argument<'_>]) -> Result<(), DeviceError> {
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
pub fn scalar(argument: &Argument<'_>) -> u64 {
    match *argument {
        Argument::Pointer(_, span) | Argument::Table(_, span, _) => span.address,
        Argument::Null | Argument::Struct(_) => 0,
        Argument::I32(x) => u64::from(x as u32),
        Argument::F32(x) => u64::from(x.to_bits()),
        Argument::I64(x) => x as u64,
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
}
