"""The systems by name. To add one: write its file and put its class here (`docs/adding_a_system.md`).

Nothing heavy is imported by naming them, so that a mistyped flag answers at once.
"""

from typing import TYPE_CHECKING

from groundscore.errors import UserError
from groundscore.names import add_new, look_up
from model.systems.base import System
from model.systems.gsva import GSVA
from model.systems.lisa import LISA
from model.systems.pixellm import PixelLM
from model.systems.read import READ
from model.systems.sesame import SESAME
from model.systems.uground import UGround

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SYSTEMS: dict[str, type[System]] = {system.__name__: system for system in (LISA, READ, PixelLM, GSVA, SESAME, UGround)}


def register(system: type[System]) -> type[System]:
    """Adds the system of a plugin under the name of its class; a decorator."""
    add_new(SYSTEMS, system.__name__, system, "system")
    return system


def plugin_of(system: str) -> str | None:
    """The module that a system comes from if `--plugin` brought it; None for one of this program."""
    module = SYSTEMS[system].__module__
    return None if module.startswith(f"{__name__}.") else module


def find_system(name: str) -> str:
    """The system's name as we write it, whatever its case; `UserError` if there is none."""
    for system in SYSTEMS:
        if system.lower() == name.lower():
            return system
    raise UserError(f"--model_key {name}: unknown system; choose one of {', '.join(SYSTEMS)}")


def build_system(config: "PreTrainedConfig") -> System:
    """The system that a model's configuration names; `UserError` if there is none of that name."""
    return look_up(config.system, SYSTEMS, "system")(config)
