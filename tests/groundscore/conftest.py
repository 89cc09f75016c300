"""What the tests of readers and splits share: small data sets."""

from tests.data_sets import data_root, picture

__all__ = ["data_root", "picture"]
