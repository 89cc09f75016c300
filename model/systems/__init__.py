"""The systems by name. To add one: write its module and put it here."""

from groundscore.errors import UserError
from model.config import GroundingConfig
from model.systems.base import System
from model.systems.gsva import GSVA
from model.systems.lisa import LISA
from model.systems.pixellm import PixelLM
from model.systems.read import READ
from model.systems.sesame import SESAME
from model.systems.uground import UGround

SYSTEMS: dict[str, type[System]] = {system.__name__: system for system in (LISA, READ, PixelLM, GSVA, SESAME, UGround)}


def build_system(config: GroundingConfig) -> System:
    """The system that a configuration names; `UserError` if there is none of that name."""
    if config.system not in SYSTEMS:
        raise UserError(f'unknown system "{config.system}"; known: {", ".join(SYSTEMS)}')
    return SYSTEMS[config.system](config)
