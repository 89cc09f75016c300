"""Attacks on what the programs read, each through a public command: `python -m benchmarks.hostile`.

One module a kind of input makes the attacks; `attack.py` runs one and judges it; `__main__.py` prints the table.
"""
