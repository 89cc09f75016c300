"""DeepSpeed's files are pickles, which may name any function to be called, and it calls them. So they are read as plain
data first."""

import pickle
from pathlib import Path
from typing import Any

from checkpoints.torch_files import load_plain
from groundscore.errors import UserError


def read_states(file: Path) -> Any:
    """What `torch.save` wrote, its tensors mapped from the file.

    Raises `UserError` for a file with anything but containers, tensors and DeepSpeed's four plain classes; nothing of
    it is run.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    try:
        return load_plain(file, [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than DeepSpeed writes, and reading it could run foreign code; take checkpoints only "
            f"from runs of this project ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{file} is not what torch.save writes ({str(error).splitlines()[0]})") from error


def refuse_code(checkpoint: Path) -> None:
    """Raise `UserError` unless all files that DeepSpeed would read are plain data. Reads no tensor."""
    for file in sorted(checkpoint.glob("*.pt")):
        read_states(file)
