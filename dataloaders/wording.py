"""What is said about targets in training: how they are shared out to questions, and named in answers.

The sentences come from the pools of `groundscore/templates/`.
"""

from collections.abc import Sequence

import numpy as np

from groundscore.pools import fill, pick, read_pool
from groundscore.targets import REJ, SEG, join_names


def distribute(rng: np.random.Generator, count: int, questions: int, per_question: int) -> list[list[int]]:
    """Deal `count` targets out to at most `questions` questions of at most `per_question` targets.

    Returns the targets of every question. Each target goes to a random empty question while there is one, then to a
    random one that has room.
    """
    assert count <= questions * per_question
    dealt: list[list[int]] = [[] for _ in range(min(count, questions))]
    for target in rng.permutation(count).tolist():
        room = [q for q in dealt if not q] or [q for q in dealt if len(q) < per_question]
        room[int(rng.integers(len(room)))].append(target)
    return dealt


def choose(rng: np.random.Generator, total: int, limit: int) -> list[int]:
    """Returns all indices below `total` in order, or `limit` of them drawn without replacement."""
    if total < limit:
        return list(range(total))
    return rng.choice(total, size=limit, replace=False).tolist()


class TargetAnswers:
    """Answers that hold one `[SEG]` or `[REJ]` per target. Each family has pools of its own."""

    def __init__(self):
        self.lone = read_pool("answers", (SEG,))
        self.separate = read_pool("single_answers", (SEG,))
        self.joint = read_pool("multi_answers", ("{seg}",))

    def write(self, rng: np.random.Generator, names: Sequence[str], exists: Sequence[bool]) -> str:
        """One target: a sentence around its token. Several: named one by one, or all first and then the tokens."""
        tokens = [SEG if there else REJ for there in exists]
        names = [name.lower() for name in names]
        if len(names) == 1:
            return pick(rng, self.lone).replace(SEG, tokens[0])
        if rng.random() < 0.5:
            template = pick(rng, self.separate).removesuffix(".")
            before, after = template.split(SEG)
            parts = [
                fill(before, class_name=name) + token + fill(after, class_name=name)
                for name, token in zip(names, tokens)
            ]
            return join_names(parts) + "."
        return fill(pick(rng, self.joint), class_name=join_names(names), seg=join_names(tokens))
