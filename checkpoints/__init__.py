"""Models on disk: ours, bases, and checkpoints of the reference implementation, read and written."""

from checkpoints.adapters import save_adapter
from checkpoints.loading import LoadReport, OpenedModel, load_model, open_model
from checkpoints.merging import merged_tensors
from checkpoints.names import load_reference_state_dict, reference_state_dict
from checkpoints.saving import export_base, export_reference, push_to_hub, save_model

__all__ = [
    "LoadReport",
    "OpenedModel",
    "export_base",
    "export_reference",
    "load_model",
    "load_reference_state_dict",
    "merged_tensors",
    "open_model",
    "push_to_hub",
    "reference_state_dict",
    "save_adapter",
    "save_model",
]
