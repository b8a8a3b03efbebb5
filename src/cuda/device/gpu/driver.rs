//! The driver: whether it is new enough, and what its errors say.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use super::super::DeviceError;

/// The oldest driver that takes images of nvcc 13.0, as `cuDriverGetVersion` counts.
const DRIVER_MIN: i32 = 13_000;

/// Refuses a driver that would refuse the kernels, in words.
pub fn check_driver() -> Result<(), DeviceError> {
    let version = driver_version()?;
    if version >= DRIVER_MIN {
        return Ok(());
    }
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Err(DeviceError::Missing(format!(
        "the NVIDIA driver is made for CUDA {major}.{minor}, the kernels need 13.0: install driver 580 or newer, or use --device cpu"
    )))
}

pub fn driver_version() -> Result<i32, DeviceError> {
    let mut version = 0;
    // SAFETY: `Gpu::new` has seen that the library is there; the driver writes a number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|e| failed("asking for the driver's version", e))?;
    Ok(version)
}

pub fn failed(what: &str, error: DriverError) -> DeviceError {
    DeviceError::Driver { what: what.to_owned(), message: format!("{error:?}") }
}
