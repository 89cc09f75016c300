"""How a target is written: one token in data sets, one or several tokens for the model (PixelLM)."""

import re

from groundscore.targets import REJ, SEG


def target_tokens(target: str, tokens_per_target: int) -> list[str]:
    """The tokens that stand for one target: `[SEG]`, or `[SEG0]`, `[SEG1]`, … where there are several."""
    if tokens_per_target == 1:
        return [target]
    return [f"{target[:-1]}{index}]" for index in range(tokens_per_target)]


def expand_targets(text: str, tokens_per_target: int) -> str:
    """`text` with every `[SEG]` and `[REJ]` written as the tokens of the system, single spaces between them."""
    if tokens_per_target == 1:
        return text
    for target in (SEG, REJ):
        text = text.replace(target, " ".join(target_tokens(target, tokens_per_target)))
    return text


def collapse_targets(text: str, tokens_per_target: int) -> str:
    """The opposite of `expand_targets`, for showing what a model wrote."""
    if tokens_per_target == 1:
        return text
    for target in (SEG, REJ):
        run = r"\s*".join(re.escape(token) for token in target_tokens(target, tokens_per_target))
        text = re.sub(run, target, text)
    return text
