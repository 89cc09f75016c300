"""A processor follows the configuration of its model and is read from the model's directory."""

import pytest

from checkpoints import save_model
from checkpoints.processing import GroundingProcessor
from groundscore.errors import UserError
from model.backbones.llava import LlavaPreparation
from model.config import GroundingConfig
from model.decoders.sam import SamPreparation
from tests.tiny import tiny_model


def test_image_preparation_follows_the_configuration():
    config = GroundingConfig(
        vision_config={"image_size": 32, "patch_size": 8},
        sam_config={name: {"image_size": 64} for name in ("vision_config", "prompt_encoder_config")},
        resize_vision_tower=True,
        resize_vision_tower_size=48,
        pad_train_clip_images=True,
    )

    processor = GroundingProcessor(config, None)

    assert processor.backbone_images == LlavaPreparation(48, (4, 4), padded=True)
    assert processor.decoder_images == SamPreparation(64)


def test_a_processor_is_read_from_the_directory_of_its_model(tmp_path):
    model, processor = tiny_model("PixelLM")
    save_model(model, processor, tmp_path / "saved")

    again = GroundingProcessor.from_pretrained(tmp_path / "saved")

    assert (again.backbone_images, again.decoder_images) == (processor.backbone_images, None)
    assert again.decode(again.tokenizer.encode("It is [SEG0] [SEG1] [SEG2] [SEG3] [SEG4] [SEG5].")) == "It is [SEG]."


def test_a_directory_that_was_not_saved_here_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        GroundingProcessor.from_pretrained(tmp_path)
