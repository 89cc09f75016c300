"""A model that loads in the background, while a front end is answering already."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from groundscore.errors import UserError

log = logging.getLogger(__name__)


class BackgroundModel:
    """The value of `load(tell)`, which runs in a thread and reports its progress by `tell(text)`.

    Any number of threads may read it; no call blocks. busy: held by whoever makes the model work.
    """

    def __init__(self, load: Callable[[Callable[[str], None]], Any], name: str):
        self.name = name
        self._load = load
        self._began = time.monotonic()
        self.busy = threading.Lock()
        self._stage, self._value, self._problem = "starting", None, None
        self._thread = threading.Thread(target=self._run, name="model loader", daemon=True)

    def start(self) -> "BackgroundModel":
        """Starts loading; returns itself."""
        self._thread.start()
        return self

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._value is not None

    @property
    def problem(self) -> str | None:
        """Why loading failed, or None."""
        return self._problem

    @property
    def stage(self) -> str:
        """What `load` is doing, in its own words."""
        return self._stage

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._began

    def get(self) -> Any:
        """The loaded model. Raises `UserError` while it is loading and if loading failed."""
        if self._problem:
            raise UserError(f"The model could not be loaded: {self._problem}")
        if self._value is None:
            raise UserError(f"The model is still being loaded ({self._stage}). Please try again in a moment.")
        return self._value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until loading has ended."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self._value = self._load(self._tell)
        except UserError as error:
            self._problem = str(error)
            log.error("loading %s: %s", self.name, error)
        except Exception as error:
            self._problem = f"{type(error).__name__}; the program's log has the details"
            log.exception("loading %s", self.name)

    def _tell(self, stage: str) -> None:
        self._stage = stage
        log.info("%s: %s", self.name, stage)
