"""The files of the recipes, `scripts/recipes/<name>.yaml`, by name."""

import difflib
from pathlib import Path

from groundscore.errors import UserError

RECIPES = Path(__file__).parents[1] / "scripts" / "recipes"


def recipe_names() -> list[str]:
    """The names of all recipes, such as 7b_reason_seg_val/uground_llava1.5_ema."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe; `UserError` with the nearest names where there is none."""
    names = recipe_names()
    wanted = name.removesuffix(".yaml")
    if wanted in names:
        return RECIPES / f"{wanted}.yaml"
    last = "/" + wanted.rpartition("/")[2]
    near = (
        [known for known in names if wanted in known]
        or [known for known in names if known.endswith(last)]
        or difflib.get_close_matches(wanted, names)
    )
    remedy = f"did you mean {', '.join(near[:4])}?" if wanted and near else f"the recipes are the files of {RECIPES}"
    raise UserError(f"--recipe {name[:200]}: no such recipe; {remedy}")
