"""From nothing to data in place: files are fetched, unpacked, linked and verified. `__main__.py` has the commands.

Works from what the families declare of their sets (`families/*.py`, `downloads.py`). No step needs the one before: each
looks at what is on disk, does what is missing, and may be repeated or killed at any time.
"""
