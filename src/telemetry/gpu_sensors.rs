//! What a GPU says of itself, through NVML.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

/// One GPU's sensors. NVML is opened at run time, and a machine without it has none.
#[derive(Debug)]
pub struct GpuSensors {
    nvml: Nvml,
    bus_id: String,
    /// Used when this was opened.
    used_before: Option<u64>,
}

impl GpuSensors {
    /// Opens the GPU at a PCI address, as in `0000:1b:00.0`; NVML counts GPUs in another order than CUDA does.
    ///
    /// # Errors
    /// Where NVML is missing or does not know the GPU, as in a container that shows only part of the driver.
    pub fn open(bus_id: &str) -> Result<GpuSensors, NvmlError> {
        let nvml = Nvml::init()?;
        nvml.device_by_pci_bus_id(bus_id)?;
        let mut gpu_sensors = GpuSensors { nvml, bus_id: bus_id.to_owned(), used_before: None };
        gpu_sensors.used_before = gpu_sensors.memory_used();
        Ok(gpu_sensors)
    }

    /// The driver's version, as in `580.65.06`.
    pub fn driver_version(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// The GPU's name, as in `NVIDIA H200`.
    pub fn name(&self) -> Option<String> {
        self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).ok()?.name().ok()
    }

    /// Bytes of the GPU's memory in use, by all processes.
    pub fn memory_used(&self) -> Option<u64> {
        Some(self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).ok()?.memory_info().ok()?.used)
    }

    /// The same without what was used when this was opened: other processes' share and the driver's context.
    pub fn memory_taken(&self) -> Option<u64> {
        Some(self.memory_used()?.saturating_sub(self.used_before?))
    }

    /// Names and values of all sensors that answer, as metrics have them.
    pub fn all(&self) -> Vec<(&'static str, f64)> {
        let Ok(gpu) = self.nvml.device_by_pci_bus_id(self.bus_id.as_str()) else { return Vec::new() };
        let utilization = gpu.utilization_rates().ok();
        let values = [
            ("gpu/memory_used_gb", gpu.memory_info().ok().map(|memory| memory.used as f64 / 1e9)),
            ("gpu/utilization", utilization.as_ref().map(|rates| f64::from(rates.gpu) / 100.0)),
            ("gpu/memory_utilization", utilization.as_ref().map(|rates| f64::from(rates.memory) / 100.0)),
            ("gpu/power_watts", gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3)),
            ("gpu/temperature_celsius", gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from)),
            ("gpu/sm_clock_mhz", gpu.clock_info(Clock::SM).ok().map(f64::from)),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_no_panic() {
        assert!(GpuSensors::open("ffff:ff:1f.0").is_err());
    }
}
