"""A conversation with a model: loading it, one question (`session`), a terminal, many questions; answers on disk.

Needs no data set; what scores answers is in `evaluation`.
"""
