"""A remedy names a flag that the program has which says it."""

import ast
import functools
import re

import app
import chat
import eval as eval_script
import merge_lora_weights
from groundscore.commands import COMMANDS
from groundscore.flags import UserParser
from tests.test_floors import MODULES, ROOT, imported
from training.arguments import build_parser as training_parser


def groundscore_parsers() -> list[UserParser]:
    """The parsers of groundscore's commands."""
    parsers = [UserParser(prog=f"groundscore {name}") for name in COMMANDS]
    for parser, command in zip(parsers, COMMANDS.values()):
        command.add_flags(parser)
    return parsers


PARSERS = {
    "train_ds": [training_parser()],
    "eval": [eval_script.build_parser()],
    "chat": [chat.build_parser()],
    "app": [app.build_parser()],
    "merge_lora_weights": [merge_lora_weights.build_parser()],
    "groundscore.commands": groundscore_parsers(),
}
FLAGS = {
    name: {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    for name, parsers in PARSERS.items()
}
FILES = {module: path.relative_to(ROOT).as_posix() for module, path in MODULES.items()}
ASKING = {"eval", "chat", "app"}

# Of the programs that import a file, those that can come to its errors that name flags; by the beginning of its path.
ONLY = {
    "checkpoints/loading.py": {"train_ds"},
    "checkpoints/merging.py": {"merge_lora_weights"},
    "checkpoints/quantizing.py": ASKING,
    "checkpoints/runs": {"train_ds"},
    "checkpoints/writing.py": {"merge_lora_weights"},
    "dataloaders/families": {"train_ds"},  # app.py draws only from the sets that it has found
    "dataloaders/settings.py": {"train_ds"},
    "evaluation/batches.py": {"eval"},
    "evaluation/records.py": {"eval"},
    "evaluation/report_files.py": {"eval"},
    "groundscore/annotations/bad_entries.py": {"train_ds", "eval"},
    "groundscore/exchange/addresses.py": {"eval", "groundscore.commands"},
    "groundscore/exchange/regions.py": {"groundscore.commands"},  # the others write these forms alone
    "groundscore/exchange/tools": {"groundscore.commands"},
    "model/backbones": {"train_ds"},
    "model/feature_cache.py": {"train_ds"},
    "model/lora.py": {"train_ds"},
    "model/systems/uground.py": {"train_ds"},
    "utils/distributed.py": {"train_ds", *ASKING},
    "utils/trackers.py": {"train_ds"},
}
# Programs with flags of their own.
OTHER_PROGRAMS = (
    *("benchmarks/", "miniature/", "dataloaders/inspect.py", "dataloaders/prepare/", "evaluation/audit.py"),
    *("model/backbones/agreement.py", "model/backbones/check.py", "model/decoders/agreement.py"),
    *("model/decoders/check.py", "utils/tracking/"),
)
# Phrased by the caller: the default is what training says.
PHRASED_BY_THE_CALLER = {("dataloaders/batching/collate.py", "--model_max_length")}


def named_flags() -> list[tuple[str, int, str]]:
    """Module, line and name of every flag in the texts of errors."""
    found = []
    for module, path in MODULES.items():
        if FILES[module].startswith(OTHER_PROGRAMS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
                found += [
                    (module, text.lineno, flag)
                    for text in texts
                    if isinstance(text.value, str)
                    for flag in re.findall(r"(?<!build\.sh )(?<!install )--[a-z]\w+", text.value)
                ]
    return found


@functools.cache
def imported_by(program: str) -> set[str]:
    """The modules of ours that a program imports, itself or through others."""
    found, waiting = set(), [program]
    if program == "app":  # imports its tabs by name
        waiting += [module for module in MODULES if module.startswith("dashboard.")]
    while waiting:
        module = waiting.pop()
        if module in MODULES and module not in found:
            found.add(module)
            waiting += [*imported(MODULES[module]), module.rpartition(".")[0]]
    return found


def importing(module: str) -> set[str]:
    """The programs that import a module."""
    return {program for program in FLAGS if module in imported_by(program)}


def exception_of(module: str) -> str | None:
    """The key of `ONLY` that a module falls under."""
    return next((place for place in ONLY if FILES[module].startswith(place)), None)


def test_every_flag_in_a_message_exists_where_the_message_is_said():
    found = named_flags()
    assert len(found) > 90
    wrong = []
    for module, line, flag in found:
        exception = exception_of(module)
        programs = importing(module) if exception is None else ONLY[exception]
        assert programs, f"no program imports {FILES[module]}"
        missing = sorted(program for program in programs if flag not in FLAGS[program])
        if missing and (FILES[module], flag) not in PHRASED_BY_THE_CALLER:
            wrong.append(f"{FILES[module]}:{line} says {flag}, which {', '.join(missing)} has not")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_needed():
    """It leaves out programs that import the file and lack a flag that it names."""
    needed = {
        exception_of(module)
        for module, _, flag in named_flags()
        for program in importing(module)
        if flag not in FLAGS[program]
    }
    assert needed >= set(ONLY)
