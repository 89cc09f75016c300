"""One reader per annotation format, images and masks from files, bad entries and their repair, and the index cache.

Nothing here draws at random or knows how a question is worded.
"""
