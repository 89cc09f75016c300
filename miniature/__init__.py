"""The miniature: a scale model of the real thing. A generated data set in the official layouts, and small base models.

python -m miniature.data --help        python -m miniature.base --help
"""
