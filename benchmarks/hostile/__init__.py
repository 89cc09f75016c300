"""Attacks on what the programs read, each through a public command: `python -m benchmarks.hostile`.

`data_files.py` and `models_and_runs.py` list the attacks; `attack.py` runs one and judges it; `__main__.py` prints the
table.
"""
