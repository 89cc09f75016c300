"""Which tokens a consolidated training file has rows for: it comes without its tokenizer."""

from dataloaders.batching.conversation import IM_END, IM_START
from dataloaders.batching.target_tokens import target_tokens
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.targets import REJ, SEG


def tokenizer_of_training(base: GroundingTokenizer, rows: int, scales: int) -> GroundingTokenizer:
    """The base's tokenizer with the tokens that the training added, told by how many rows its tables have more.

    With n tokens per target (a multiple of `scales`) the reference and GSVA add n for `[SEG]`, n for `[REJ]` and 2
    for the image; the other systems' own repositories have no `[REJ]`, and so other ids for the two. Where neither
    fits, nothing is added here.
    """
    added = rows - len(base)
    for targets in ((SEG, REJ), (SEG,)):
        count, left = divmod(added - 2, len(targets))
        if count > 0 and not left and count % scales == 0:
            tokens = [token for target in targets for token in target_tokens(target, count)] + [IM_START, IM_END]
            ids = {token: len(base) + index for index, token in enumerate(tokens)}
            return GroundingTokenizer(base.model, {**base.added_tokens, **ids}, tokens_per_target=count)
    return base
