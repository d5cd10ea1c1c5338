"""Accuracy that can be trusted: studies of many trainings, their record, and the tables and pictures made of it.

    python -m prn_fast.bench.accuracy run STUDY --data DIR --output FOLDER

`studies.py` declares what is compared, `run.py` trains and evaluates by the commands alone, `record.py` keeps one JSON
a study, and `tables.py`, `pareto.py` and `failures.py` make of it what docs/accuracy.md shows. Records to be shown lie
in `results/`.
"""
