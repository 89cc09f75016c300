"""What things cost: time and memory. `python -m benchmarks.data --help`"""
