"""The systems by name. To add one: write its module and put it here."""

from utils.errors import UserError

from ..config import GroundingConfig
from .base import System
from .gsva import GSVA
from .lisa import LISA
from .pixellm import PixelLM
from .read import READ
from .sesame import SESAME
from .uground import UGround

SYSTEMS: dict[str, type[System]] = {system.__name__: system for system in (LISA, READ, PixelLM, GSVA, SESAME, UGround)}


def build_system(config: GroundingConfig) -> System:
    """The system that a configuration names; `UserError` if there is none of that name."""
    if config.system not in SYSTEMS:
        raise UserError(f'unknown system "{config.system}"; known: {", ".join(SYSTEMS)}')
    return SYSTEMS[config.system](config)
