"""What holds for all tests."""

import os

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; what programs print would be fitted to a terminal
