"""A remedy names a flag that the program has which says it."""

import ast
import re
from pathlib import Path

import app
import chat
import eval as eval_script
import merge_lora_weights
from training.arguments import build_parser as training_parser

ROOT = Path(__file__).parents[1]
PARSERS = {
    "train_ds.py": training_parser(),
    "eval.py": eval_script.build_parser(),
    "chat.py": chat.build_parser(),
    "app.py": app.build_parser(),
    "merge_lora_weights.py": merge_lora_weights.build_parser(),
}
FLAGS = {
    name: {flag for action in parser._actions for flag in action.option_strings} for name, parser in PARSERS.items()
}
ASKING = {"eval.py", "chat.py", "app.py"}

# Which programs run the code of a file; the longest beginning of its path counts.
RUN_BY = {
    "dataloaders": set(FLAGS) - {"merge_lora_weights.py"},
    "dashboard": {"app.py"},
    "groundscore": set(FLAGS) - {"merge_lora_weights.py"},
    "checkpoints": set(FLAGS),
    "checkpoints/runs": {"train_ds.py"},
    "inference": ASKING,
    "model": set(FLAGS),
    "utils": set(FLAGS),
    "inference/session.py": ASKING,
    "inference/many_questions.py": {"chat.py"},
    "inference/terminal.py": {"chat.py"},
    "inference/prompt_files.py": {"chat.py"},
    "evaluation": {"eval.py"},
    "evaluation/running.py": {"eval.py", "train_ds.py"},
    "groundscore/scoring": {"eval.py"},
    # Only training has families of data, packs rows and builds a model of parts.
    "groundscore/annotations/bad_entries.py": {"train_ds.py", "eval.py"},
    "dataloaders/mixture.py": {"train_ds.py"},
    "dataloaders/settings.py": {"train_ds.py"},
    "dataloaders/families": {"train_ds.py"},
    "model/backbones": {"train_ds.py"},
    "model/lora.py": {"train_ds.py"},
    "model/systems/uground.py": {"train_ds.py"},
    "checkpoints/loading.py": {"train_ds.py"},
    "checkpoints/quantizing.py": ASKING,
    "checkpoints/writing.py": {"merge_lora_weights.py"},
    "utils/distributed.py": {"train_ds.py", *ASKING},
    "model/feature_cache.py": {"train_ds.py"},
    "training": {"train_ds.py"},
}
OTHERS = ("dataloaders/inspect.py", "utils/tracking", "checkpoints/merging.py", "checkpoints/merging.py")
# Phrased by the caller: the default is what training says.
PHRASED_BY_THE_CALLER = {("dataloaders/batching/collate.py", "--model_max_length")}


def named_flags() -> list[tuple[str, int, str]]:
    """File, line and name of every flag in the texts of errors."""
    found = []
    for folder in sorted({place.partition("/")[0] for place in RUN_BY}):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and not name.startswith(OTHERS):
                    texts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
                    found += [
                        (name, text.lineno, flag)
                        for text in texts
                        if isinstance(text.value, str)
                        for flag in re.findall(r"(?<!build\.sh )--[a-z]\w+", text.value)
                    ]
    return found


def test_every_flag_in_a_message_exists_where_the_message_is_said():
    found = named_flags()
    assert len(found) > 40
    wrong = []
    for name, line, flag in found:
        programs = RUN_BY[max((place for place in RUN_BY if name.startswith(place)), key=len)]
        missing = sorted(program for program in programs if flag not in FLAGS[program])
        if missing and (name, flag) not in PHRASED_BY_THE_CALLER:
            wrong.append(f"{name}:{line} says {flag}, which {', '.join(missing)} has not")
    assert not wrong, "\n".join(wrong)
