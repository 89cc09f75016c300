"""Plugins that the pages of docs/ are made of: Python blocks that begin with a comment `# NAME.py`."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from groundscore.scoring.metrics import METRICS
from model.systems import SYSTEMS

DOCS = Path(__file__).parents[1] / "docs"
_MODULE = re.compile(r"```python\n# (\w+)\.py\n(.*?)```", re.DOTALL)


def write_plugins(folder: Path) -> None:
    """Write the modules of all pages into `folder`."""
    for page in DOCS.glob("adding_*.md"):
        for name, code in _MODULE.findall(page.read_text(encoding="utf-8")):
            (folder / f"{name}.py").write_text(code, encoding="utf-8")


@contextlib.contextmanager
def importable_plugins(folder: Path) -> Iterator[None]:
    """Inside the `with` block the plugins of all pages can be imported; afterwards nothing of them is left."""
    write_plugins(folder)
    modules, systems, metrics = set(sys.modules), dict(SYSTEMS), list(METRICS)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in {path.stem for path in folder.glob("*.py")} - modules:
            sys.modules.pop(name, None)
        SYSTEMS.clear()
        SYSTEMS.update(systems)
        METRICS[:] = metrics
