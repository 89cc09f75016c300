"""The prompt text of a conversation: LLaVA's "v1" chat format, the one the six systems were trained with.

SESAME's and READ's authors train with the system text of `llava_v1` ("a curious human") and evaluate false premises
with that of `vicuna_v1` ("a curious user"); everything else is the same.

    {system} USER: <im_start><image><im_end>\\n{question} ASSISTANT: {answer}</s>USER: {question} ASSISTANT: …

The image stands before the first question. An answer of None leaves the text at `ASSISTANT:`, for the model to go on.
The text comes in pieces, because everything up to the image is the same for all conversations about it.

A target is one token in data sets (`[SEG]`, `[REJ]`), and one or several tokens for the model (PixelLM).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dataloaders.sample import Turn
from groundscore.targets import IMAGE_PLACEHOLDER, REJ, SEG

_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
# Conversation templates by name; they differ in the system text only.
SYSTEM_TEXTS = {"llava_v1": _SYSTEM.format(who="human"), "vicuna_v1": _SYSTEM.format(who="user")}
SYSTEM_TEXT = SYSTEM_TEXTS["llava_v1"]
IM_START = "<im_start>"
IM_END = "<im_end>"
END_OF_ANSWER = "</s>"


@dataclass(frozen=True)
class TurnText:
    """One turn as text: `asked` ends in "ASSISTANT:"; `answered` is the answer up to its `</s>`, empty for None."""

    asked: str
    answered: str


@dataclass(frozen=True)
class ConversationText:
    """`prefix` is what precedes the image; the first of `turns` begins right after it."""

    prefix: str
    turns: tuple[TurnText, ...]


def conversation_text(
    turns: Sequence[Turn], *, wrap_image: bool = True, conv_type: str = "llava_v1"
) -> ConversationText:
    """The text of a conversation about one image.

    conv_type: a key of `SYSTEM_TEXTS`.
    wrap_image: write `<im_start>` and `<im_end>` around the image (all systems here do).

    A placeholder inside a question is taken out: a conversation shows its image once, and it is put there.
    """
    if not turns:
        raise ValueError("a conversation has at least one turn")
    if any(not turn.answer for turn in turns[:-1]):
        raise ValueError("only the last answer of a conversation may be left open")
    before, after = (IM_START, IM_END) if wrap_image else ("", "")
    texts = []
    for index, turn in enumerate(turns):
        opening = f"{after}\n" if index == 0 else "USER: "
        question = turn.question.replace(IMAGE_PLACEHOLDER, "")
        answered = f" {turn.answer}{END_OF_ANSWER}" if turn.answer else ""
        texts.append(TurnText(f"{opening}{question} ASSISTANT:", answered))
    return ConversationText(f"{SYSTEM_TEXTS[conv_type]} USER: {before}", tuple(texts))


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
