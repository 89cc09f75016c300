"""What code and settings every launch of a run had: `snapshot.py` records, `history.py` reads, `__main__.py` shows."""
