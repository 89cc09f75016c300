"""`AutoConfig`, `AutoModel` and `AutoProcessor` of transformers know our models once this module is imported.

    import checkpoints.registration
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained("runs/quickstart/hf")
    processor = AutoProcessor.from_pretrained("runs/quickstart/hf")

They read directories of ours; `checkpoints.load_model` also reads everybody else's.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from checkpoints.processing import GroundingProcessor
from model.config import GroundingConfig
from model.grounding import GroundingModel

AutoConfig.register(GroundingConfig.model_type, GroundingConfig, exist_ok=True)
AutoModel.register(GroundingConfig, GroundingModel, exist_ok=True)
AutoProcessor.register(GroundingConfig, GroundingProcessor, exist_ok=True)
