"""The state of the hardware while it is measured: clocks, temperature, power, throttling; None if unknown."""

from pathlib import Path
from typing import Any

import psutil

THROTTLE_COUNTERS = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
CLOCK_CHANGE = 0.10  # a clock that changed by more is a warning


def read_hardware_state() -> dict[str, Any]:
    """The state now, JSON-ready.

    Returns:
        "cpu_mhz": mean clock of the cores; "cpu_celsius": hottest sensor; "cpu_throttled": count of thermal throttlings
        since the start of the system; "load_average": of the last minute; "gpus": one entry per GPU, see `_gpu`.
        What the system does not say is None.
    """
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "cpu_mhz": frequency.current if frequency else None,
        "cpu_celsius": _hottest(),
        "cpu_throttled": _throttlings(),
        "load_average": psutil.getloadavg()[0],
        "gpus": _gpus(),
    }


def hardware_state_warnings(start: dict[str, Any], end: dict[str, Any]) -> list[str]:
    """Changes between two readings that are large enough to have changed speeds, as sentences."""
    warnings = []
    if start["cpu_mhz"] and end["cpu_mhz"] and abs(end["cpu_mhz"] / start["cpu_mhz"] - 1) > CLOCK_CHANGE:
        warnings.append(f"the processor's clock went from {start['cpu_mhz']:.0f} to {end['cpu_mhz']:.0f} MHz")
    if (end["cpu_throttled"] or 0) > (start["cpu_throttled"] or 0):
        warnings.append("the processor was throttled because of its temperature")
    for before, after in zip(start["gpus"], end["gpus"], strict=False):
        if before["sm_mhz"] and after["sm_mhz"] and abs(after["sm_mhz"] / before["sm_mhz"] - 1) > CLOCK_CHANGE:
            warnings.append(f"{after['name']}: the clock went from {before['sm_mhz']} to {after['sm_mhz']} MHz")
        if after["throttled"]:
            warnings.append(f"{after['name']} is throttled: {', '.join(after['throttled'])}")
    return warnings


def _hottest() -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    values = [entry.current for entries in sensors.values() for entry in entries if entry.current]
    return max(values, default=None)


def _throttlings() -> int | None:
    root, pattern = Path("/"), THROTTLE_COUNTERS.lstrip("/")
    counts = []
    for counter in root.glob(pattern):
        try:
            counts.append(int(counter.read_text()))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None


def _gpus() -> list[dict[str, Any]]:
    """What NVML says of each GPU; empty without a GPU, a driver or the nvidia-ml-py package."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the module is missing, or there is no driver: NVML's errors are its own class
        return []
    try:
        return [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    """Name, clocks in MHz, degrees Celsius, watts, and reasons for throttling that hold now."""

    def told(read: Any, *arguments: Any) -> Any:
        try:
            return read(handle, *arguments)
        except nvml.NVMLError:
            return None

    reasons = told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
    power = told(nvml.nvmlDeviceGetPowerUsage)
    slow = {
        "temperature": nvml.nvmlClocksThrottleReasonSwThermalSlowdown | nvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "power limit": nvml.nvmlClocksThrottleReasonSwPowerCap | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "hardware slowdown": nvml.nvmlClocksThrottleReasonHwSlowdown,
    }
    return {
        "name": told(nvml.nvmlDeviceGetName),
        "sm_mhz": told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        "memory_mhz": told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        "celsius": told(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        "watts": None if power is None else power / 1000,
        "throttled": [name for name, mask in slow.items() if reasons & mask],
    }
