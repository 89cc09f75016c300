"""The dashboard behind `app.py`; a tab is a module with a function `(context) -> None` and a line in `TABS`.

app.py ─▶ serving.py ─▶ ground.py, data.py, layers.py, runs.py     lay out widgets and bind events
          gate.py       grounding.py, samples.py, layer_views.py   what the events do, without widgets
          page.js       pointing.py, visit.py, exchanges.py        of the Ground tab: clicks, its state, its answers
                        conversation.py, viewer.py (talk.js, viewer.js)   how it shows that
                        context.py, widgets.py, markup.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashboard.context import Context


@dataclass(frozen=True)
class Tab:
    """title: on the page; build: name of the module and function that lays it out; needs_model: whether --version is
    needed."""

    title: str
    build: str
    needs_model: bool

    def load(self) -> Callable[["Context"], None]:
        """The function that lays the tab out, imported only now."""
        module, _, function = self.build.partition(":")
        return getattr(import_module(module), function)


TABS = {
    "ground": Tab("Ground", "dashboard.ground:ground_tab", needs_model=True),
    "data": Tab("Data", "dashboard.data:data_tab", needs_model=False),
    "layers": Tab("Layers", "dashboard.layers:layers_tab", needs_model=True),
    "runs": Tab("Runs", "dashboard.runs:runs_tab", needs_model=False),
}
