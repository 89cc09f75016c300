"""The systems of the framework, by name. Nothing heavy is imported, so that a mistyped flag answers at once."""

from groundscore.errors import UserError

SYSTEMS = ("LISA", "READ", "PixelLM", "GSVA", "SESAME", "UGround")


def find_system(name: str) -> str:
    """The system's name as we write it, whatever its case."""
    for system in SYSTEMS:
        if system.lower() == name.lower():
            return system
    raise UserError(f"--model_key {name}: unknown system; choose one of {', '.join(SYSTEMS)}")
