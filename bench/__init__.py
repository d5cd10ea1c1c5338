"""Measuring engines: speed, memory and agreement, in one run, and the report on it.

`package_bench.bench_package` is the whole of `prn-bench`; `engines.runner.run_bench` measures any objects with the
engine interface in closed loops, `scenarios.run_scenarios` in the other scenarios; `report.page.render_page` makes the
HTML page. `suite/` holds the benchmarks of `make bench`, `figures` fills the README from `results/`. CONTRIBUTING.md
has the rooms in their order.
"""
