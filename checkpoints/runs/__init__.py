"""Training checkpoints: what a run leaves on disk, and how it resumes.

    runs/<exp>/ckpt_model/global_step<N>/     the latest; runs/<exp>/best_ckpt_model/… the best by cIoU
        mp_rank_00_model_states.pt, …         DeepSpeed: trained weights, optimizer, schedule (frozen weights are not
                                              stored, `settings.json` says where they are)
        random_state_rank_<r>.pt              generators of every process
        scores.json                           scores of the run so far, and the best of them
        settings.json                         flags, model configuration, base paths: all that merging needs
        complete.json                         position in training, number of the save, and every file with its size
                                              and digest, and its own digest; written last
    runs/<exp>/ckpt_model/latest              name of the newest, for people and for DeepSpeed's tools

A checkpoint is copied to memory (`snapshots.py`), written beside by a thread under a name that nothing reads
(`saver.py`), and renamed when it is complete. The newest is the complete one with the highest number of save
(`finding.py`). `resuming.py` reads one into an engine, `restoring.py` into a whole model.
"""

from checkpoints.runs.finding import (
    BEST,
    LATEST,
    LATEST_FILE,
    MARKER,
    SCORES,
    Position,
    candidates_in,
    checkpoints_in,
    find_checkpoint,
    incomplete_in,
    is_complete,
    is_run,
    read_position,
    read_settings,
    resolve_checkpoint,
    verify_checkpoint,
)
from checkpoints.runs.resuming import load_trained_weights, resume, trained_weights
from checkpoints.runs.saver import Saver, copy_checkpoint, save_checkpoint
from checkpoints.runs.scores import Scores, open_scores, scores_at, selected_on

__all__ = [
    "BEST",
    "LATEST",
    "LATEST_FILE",
    "MARKER",
    "SCORES",
    "Position",
    "Saver",
    "Scores",
    "candidates_in",
    "checkpoints_in",
    "copy_checkpoint",
    "find_checkpoint",
    "incomplete_in",
    "is_complete",
    "is_run",
    "load_trained_weights",
    "open_scores",
    "read_position",
    "read_settings",
    "resolve_checkpoint",
    "resume",
    "save_checkpoint",
    "scores_at",
    "selected_on",
    "trained_weights",
    "verify_checkpoint",
]
