"""How figures are written, on the terminal and on the page: three digits, and a dash where there is no figure."""

from typing import Any

ABSENT = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A value with this many significant digits, without an exponent from 0.001 to 99,999."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    whole_digits = len(str(int(abs(value))))
    decimals = max(0, digits - whole_digits) if abs(value) >= 1 else _decimals_below_one(value, digits)
    return f"{value:,.{decimals}f}"


def _decimals_below_one(value: float, digits: int) -> int:
    decimals = digits
    while abs(value) * 10 ** (decimals - digits + 1) < 1:
        decimals += 1
    return decimals


def hertz(rate: float) -> str:
    """A line rate with its unit."""
    return f"{rate / 1e3:.3g} kHz" if rate >= 1e3 else f"{rate:.3g} Hz"


def interval_text(interval: list[float] | None) -> str:
    """Both ends of an interval."""
    return ABSENT if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def signed(value: float | None, decimals: int = 4) -> str:
    """A change, with its sign."""
    return ABSENT if value is None else f"{value:+.{decimals}f}"


def describe_memory(memory: dict[str, Any] | None) -> str:
    """Peak memory in MB (10^6 bytes); GPU memory after a plus sign."""
    if memory is None:
        return ABSENT
    if "error" in memory:
        return "failed"
    text = f"{memory['peak_rss_bytes'] / 1e6:,.0f}"
    if memory["peak_cuda_bytes"]:
        text += f" + {memory['peak_cuda_bytes'] / 1e6:,.0f} GPU"
    return text


def finding(entry: dict[str, Any]) -> str:
    """What a scenario found for one engine, in a sentence."""
    if entry["scenario"] == "line-camera":
        return entry["verdict"]
    if entry["scenario"] == "offline":
        interval = f" ({interval_text(entry['interval'])})" if entry["interval"] else ""
        return f"{number(entry['images_per_second'])} images/s{interval} at batch {entry['batch']}"
    held = entry["held"]
    if held is None:
        return f"no rate shown to hold p99 {entry['p99_ms']:g} ms: {entry['reason']}"
    return (
        f"holds {number(held['rate'])} images/s of random arrivals, p99 {number(held['latency_ms']['p99'])} ms "
        f"(bound {entry['p99_ms']:g} ms), {held['queries']} queries"
    )
