"""Measuring engines: speed, memory and agreement, in one run, and the report on it.

`package_bench.bench_package` is the whole of `prn-bench`; `runner.run_bench` measures any objects with the engine
interface; `page.render_page` makes the HTML page from sections.
"""
