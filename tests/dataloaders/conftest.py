"""What the tests of the data layer share: a tokenizer, a processor and small data sets."""

import importlib.util
from pathlib import Path

import pytest

from dataloaders.batching.collate import Processor
from dataloaders.batching.tokenization import GroundingTokenizer
from model.backbones.llava import LlavaPreparation
from model.decoders.sam import SamPreparation
from tests.data_sets import data_root, picture

__all__ = ["data_root", "picture"]


@pytest.fixture(scope="session")
def vocabulary() -> bytes:
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("needs a vocabulary: pip install --no-deps mistral-common")
    return (Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes()


@pytest.fixture(scope="session")
def make_processor(vocabulary):
    """A function (tokens_per_target) -> processor with four image tokens."""

    def make(tokens_per_target: int = 1) -> Processor:
        tokenizer = GroundingTokenizer(vocabulary)
        tokenizer.add_grounding_tokens(tokens_per_target)
        return Processor(tokenizer, LlavaPreparation(16, (2, 2)), SamPreparation(32))

    return make
