"""Tokenizer and image preparation of a model, read from and written to the directory of the model."""

import json
from pathlib import Path
from typing import Any

from checkpoints.files import CONFIG_FILE, SETTINGS_FILE, read_config
from checkpoints.hub import find_model
from checkpoints.own_configs import own_config
from dataloaders.batching.collate import Processor
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.errors import UserError
from model.backbones import backbone_of
from model.config import GroundingConfig
from model.systems import build_system


class GroundingProcessor(Processor):
    """Tokenizer and image preparation of the model that `config` describes."""

    def __init__(self, config: GroundingConfig, tokenizer: GroundingTokenizer):
        super().__init__(
            tokenizer,
            backbone_of(config).preparation(config),
            build_system(config).decoder().preparation(config),
            config.conv_type,
        )

    @classmethod
    def from_pretrained(cls, directory: str | Path, **_unused: Any) -> "GroundingProcessor":
        """Read a directory of ours; `directory` may be a hub id. `AutoProcessor` passes more than is used."""
        directory = find_model(directory, "the processor of")
        if not (directory / SETTINGS_FILE).is_file():
            raise UserError(f"{directory} has no {SETTINGS_FILE}; it is not a directory that this program saved")
        config = own_config(read_config(directory), directory / CONFIG_FILE)
        return cls(config, backbone_of(config).tokenizer.from_directory(directory))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the tokenizer's files, and `preprocessor_config.json` for `AutoProcessor`.

        Sizes are read from `config.json`, which is the model's to write.
        """
        directory = Path(directory)
        self.tokenizer.save(directory)
        values = {"processor_class": type(self).__name__}
        (directory / SETTINGS_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
