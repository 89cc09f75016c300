"""The dashboard's tabs: another one is a module with a function `(context) -> None` and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from dashboard.context import Context


@dataclass(frozen=True)
class Tab:
    """title: on the page; build: name of the module and function that lays it out; needs_model: whether --version is
    needed."""

    title: str
    build: str
    needs_model: bool

    def load(self) -> Callable[[Context], None]:
        """The function that lays the tab out, imported only now."""
        from importlib import import_module

        module, _, function = self.build.partition(":")
        return getattr(import_module(module), function)


TABS = {
    "ground": Tab("Ground", "dashboard.ground:ground_tab", needs_model=True),
    "data": Tab("Data", "dashboard.data:data_tab", needs_model=False),
    "layers": Tab("Layers", "dashboard.layers:layers_tab", needs_model=True),
    "runs": Tab("Runs", "dashboard.runs:runs_tab", needs_model=False),
}
