"""One web page that shows an inspection live: the strip flowing by with its heat map, defects, latency and ledger."""

from prn_fast.linescan.dashboard.server import Dashboard

__all__ = ["Dashboard"]
