"""One conversation as token ids: the prefix that all conversations about an image share, and the branch of this one.

Labels cover every answer and its `</s>`, nothing else; targets are found among the labelled tokens, so a `[SEG]` that
stands in a question is text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dataloaders.batching.conversation import conversation_text, expand_targets
from dataloaders.batching.tokenization import IMAGE_TOKEN_INDEX, GroundingTokenizer
from dataloaders.sample import Turn
from groundscore.errors import UserError


@dataclass(frozen=True)
class Target:
    """Where a target's first token stands in the branch, and whether it is a `[SEG]` (else a `[REJ]`)."""

    start: int
    is_seg: bool


@dataclass(frozen=True)
class EncodedConversation:
    """prefix: all that precedes the image (`<s>`, the system's text, …), and `IMAGE_TOKEN_INDEX` for every image token.
    branch: the tokens after the image.
    labelled: indices into the branch of the tokens to be learned.
    targets: in the order in which they are written.
    open: the last answer is left to the model.
    """

    prefix: tuple[int, ...]
    branch: tuple[int, ...]
    labelled: tuple[int, ...]
    targets: tuple[Target, ...]
    open: bool

    def __len__(self) -> int:
        return len(self.prefix) + len(self.branch)

    def cut(self, length: int, tokens_per_target: int) -> "EncodedConversation | None":
        """At most `length` tokens of it, or None where the cut would lose a target."""
        room = length - len(self.prefix)
        if len(self.branch) <= room:
            return self
        if any(target.start + tokens_per_target > room for target in self.targets):
            return None
        kept = tuple(index for index in self.labelled if index < room)
        return replace(self, branch=self.branch[: max(room, 0)], labelled=kept)


def encode_conversation(
    turns: Sequence[Turn], tokenizer: GroundingTokenizer, *, num_image_tokens: int, conv_type: str = "llava_v1"
) -> EncodedConversation:
    """Ids, labels and targets of a conversation about one image; `conv_type` as in `conversation_text`.

    Every turn is encoded by itself: the token that ends an answer ends it, and text is cut there in any case.
    """
    count = tokenizer.tokens_per_target
    text = conversation_text(turns, wrap_image=tokenizer.im_start_id is not None, conv_type=conv_type)
    prefix = tokenizer.encode(text.prefix) + [IMAGE_TOKEN_INDEX] * num_image_tokens
    branch: list[int] = []
    labelled: list[int] = []
    targets: list[Target] = []
    for turn in text.turns:
        ids, asked = tokenizer.encode_turn(expand_targets(turn.asked, count), expand_targets(turn.answered, count))
        answer_start = len(branch) + asked
        branch += ids
        labelled += range(answer_start, len(branch))
        targets += _find_targets(branch, answer_start, tokenizer)
    is_open = not text.turns[-1].answered
    return EncodedConversation(tuple(prefix), tuple(branch), tuple(labelled), tuple(targets), is_open)


def _find_targets(branch: Sequence[int], start: int, tokenizer: GroundingTokenizer) -> list[Target]:
    """The targets that are written in `branch[start:]`."""
    found = []
    kinds = {tokenizer.seg_token_ids[0]: True, tokenizer.rej_token_ids[0]: False}
    for index in range(start, len(branch)):
        is_seg = kinds.get(branch[index])
        if is_seg is None:
            continue
        ids = tokenizer.seg_token_ids if is_seg else tokenizer.rej_token_ids
        if tuple(branch[index : index + len(ids)]) != ids:
            raise UserError(f"an answer contains an incomplete target: {tokenizer.decode(branch[start:])!r}")
        found.append(Target(index, is_seg))
    return found
