"""Upload a model to the Hugging Face hub, as the directory that `save_model` writes."""

import tempfile
from pathlib import Path

from checkpoints.card import Scores
from checkpoints.saving import SHARD_BYTES, save_model
from dataloaders.batching.processing import GroundingProcessor
from groundscore.errors import UserError
from model.grounding import GroundingModel


def push_to_hub(
    model: GroundingModel,
    processor: GroundingProcessor | None,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    shard_bytes: int = SHARD_BYTES,
    base: str | None = None,
    scores: Scores | None = None,
) -> str:
    """Create the repository if need be and upload everything in one commit; its address.

    private, token, revision: as in huggingface_hub. base, scores: for the model card. Without its processor a model
    cannot be used from the hub, so it is asked for.
    """
    if processor is None:
        raise UserError("pass processor=…: tokenizer and image settings belong to the model on the hub")
    with tempfile.TemporaryDirectory(prefix="uground-upload-") as parent:
        directory = Path(parent) / "model"
        save_model(model, processor, directory, shard_bytes=shard_bytes, base=base, scores=scores, name=repo_id)
        return upload(
            directory, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
        )


def upload(
    directory: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Upload a saved directory as it is; the address of the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo_id, folder_path=directory, revision=revision, commit_message=commit_message
        )
    except OfflineModeIsEnabled as error:
        raise UserError(f"{repo_id} was not uploaded: HF_HUB_OFFLINE is set") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(f"{repo_id} was not uploaded: {reason[0] if reason else type(error).__name__}") from error
    return done.commit_url
