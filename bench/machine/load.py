"""What else the machine did meanwhile: the share of its processors that other processes used."""

import time

import psutil


class LoadMeter:
    """Counts processor time, of the whole machine and of this process, from its creation on."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start = self._read()

    def others_share(self) -> float:
        """Share (0..1) of all processor time since the start that went to other processes, or was stolen by a host."""
        (clock, busy, own), (clock0, busy0, own0) = self._read(), self._start
        available = (clock - clock0) * (psutil.cpu_count() or 1)
        if available <= 0:
            return 0.0
        return min(1.0, max(0.0, (busy - busy0) - (own - own0)) / available)

    def _read(self) -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), self._process.cpu_times()
        # Guest time is already counted as user time.
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        guest = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
        return time.monotonic(), sum(machine) - idle - guest, own.user + own.system
