"""The prompt text of a conversation: a chat template, and where the image and the answers stand in it.

LLaVA's "v1" format is the one that the six systems were trained with:

    {system} USER: <im_start><image><im_end>\\n{question} ASSISTANT: {answer}</s>USER: {question} ASSISTANT: …

SESAME's and READ's authors train with the system text of `llava_v1` ("a curious human") and evaluate false premises
with that of `vicuna_v1` ("a curious user"); everything else is the same. Other backbones have the templates that their
own checkpoints were trained with.

The image stands before the first question. An answer of None leaves the text at its beginning, for the model to go on.
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
SYSTEM_TEXT = _SYSTEM.format(who="human")
IM_START = "<im_start>"
IM_END = "<im_end>"
END_OF_ANSWER = "</s>"


@dataclass(frozen=True)
class ChatTemplate:
    """How a model writes a conversation about one image.

    before_image: all that precedes the image; after_image: between it and the first question.
    next_question: between an answer and the question after it. answer: between a question and its answer.
    space: what an answer itself begins with. end: ends an answer, one token.
    wraps_image: write LLaVA's `<im_start>` and `<im_end>` around the image, where the tokenizer has them.
    """

    before_image: str
    after_image: str
    next_question: str
    answer: str
    end: str
    space: str = ""
    wraps_image: bool = False


def _llava(who: str) -> ChatTemplate:
    before = f"{_SYSTEM.format(who=who)} USER: "
    return ChatTemplate(before, "\n", "USER: ", " ASSISTANT:", END_OF_ANSWER, space=" ", wraps_image=True)


def _chatml(system: str, before_image: str, after_image: str) -> ChatTemplate:
    """The format of Qwen's models; system: the whole turn of the system, or nothing."""
    end = "<|im_end|>"
    user, answer = "<|im_start|>user\n", f"{end}\n<|im_start|>assistant\n"
    return ChatTemplate(f"{system}{user}{before_image}", after_image, f"\n{user}", answer, end)


_QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
# Conversation templates by name (`--conv_type`), as the `chat_template` of each model's checkpoints writes them.
TEMPLATES = {
    "llava_v1": _llava("human"),
    "vicuna_v1": _llava("user"),
    "qwen2_5_vl": _chatml(_QWEN_SYSTEM, "<|vision_start|>", "<|vision_end|>"),
    "internvl3": _chatml("", "<img>", "</img>\n"),
    "llava_onevision": _chatml(_QWEN_SYSTEM, "", "\n"),  # LLaVA-NeXT's "qwen_1_5"
    "qwen3_vl": _chatml("", "<|vision_start|>", "<|vision_end|>"),
}


@dataclass(frozen=True)
class TurnText:
    """One turn as text: `asked` ends where the answer begins; `answered` is the answer and its end, empty for None."""

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

    conv_type: a key of `TEMPLATES`.
    wrap_image: write `<im_start>` and `<im_end>` around the image where the template has them (all LLaVAs here do).

    A placeholder inside a question is taken out: a conversation shows its image once, and it is put there.
    """
    if not turns:
        raise ValueError("a conversation has at least one turn")
    if any(not turn.answer for turn in turns[:-1]):
        raise ValueError("only the last answer of a conversation may be left open")
    template = TEMPLATES[conv_type]
    before, after = (IM_START, IM_END) if wrap_image and template.wraps_image else ("", "")
    texts = []
    for index, turn in enumerate(turns):
        opening = f"{after}{template.after_image}" if index == 0 else template.next_question
        question = turn.question.replace(IMAGE_PLACEHOLDER, "")
        answered = f"{template.space}{turn.answer}{template.end}" if turn.answer else ""
        texts.append(TurnText(f"{opening}{question}{template.answer}", answered))
    return ConversationText(f"{template.before_image}{before}", tuple(texts))


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
