"""One reader per annotation format, repairs of faulty entries, and the index cache."""
