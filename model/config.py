"""The configuration of a grounding model: three transformers configurations and what ties them together."""

import copy

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, SamConfig


class GroundingConfig(PreTrainedConfig):
    """Everything that is needed to build a model and its processor, saved as `config.json` beside the weights.

    text_config, vision_config, sam_config: the LLaMA, the CLIP tower and SAM (configuration objects or dictionaries).
    system: one of `utils.systems.SYSTEMS`.
    mm_projector_type: "linear", "mlpNx_gelu" or "identity", between CLIP and LLaMA (LLaVA's names).
    mm_vision_select_layer: index into CLIP's hidden states (embeddings first); -2 is the last but one layer.
    out_dim: width of SAM's prompt tokens.
    seg_token_num, image_feature_scale_num: tokens per target are their product (1 except for PixelLM).
    seg_token_ids, rej_token_ids, im_start_id, im_end_id: token ids, set when the tokenizer is known.
    pad_train_clip_images: CLIP sees the whole image padded to a square (normalised with SAM's statistics, padding
        masked in attention) instead of its centre crop.
    num_layers: hidden states that the policy chooses from, layers of the LLM plus one.
    mode: 1 last layer only, 2 policy for the similarity map, 3 policy for map and text prompt.
    gate: what the policy's gate is multiplied with, "reference" hidden states as they are or "normalized" ones (see
        `policy.py`). A stored configuration without it is of the first form; training from a base takes the second.
    estimator: of the policy's gradient, "sample", "leave_one_out" or "expected" (see `policy.py`).
    policy_samples: layers scored per target by "leave_one_out".
    baseline_type, baseline_beta, critic_hidden_dim: the reward baseline of "sample": "ema", "critic" or "none".
    reward: "target" gives every target its own reward, "batch" one reward per micro-batch (the reference's form).
    eval_legacy: the last layer is used outside training, whatever the policy learned.
    map_geometry: "fit" places the similarity map where CLIP looked; "reference" always assumes padded CLIP input.
    read_num_points, read_t_pos, read_t_neg, read_down_sample, read_point_space: READ's points (see
        `points.PointRule`).
    mask_prompt, map_loss: whether the similarity map prompts SAM, and whether it is supervised.
    conv_type: conversation template, "llava_v1" or "vicuna_v1".
    map_loss_layers: "chosen" supervises the map of the chosen layer (the reference), "all" those of all layers alike.
    separate_mm_projector: two-layer projectors, one to the LLM and one to the mask decoder; their hidden width is
        `mm_projector_hidden_dim` times the LLM's, the second one's output is the LLM's width where
        `mm_projector_out_dim` is 1 and CLIP's where it is 2.
    resize_vision_tower, resize_vision_tower_size: CLIP reads larger pictures; the LLM's image tokens stay as many.
    llm_image_grid: image tokens of the LLM along a side, None for as many as CLIP has before it is resized; original
        PixelLM has 16, whatever its CLIP.
    vision_tower_for_mask: PixelLM decodes masks from CLIP features instead of SAM's.
    """

    model_type = "uground"
    sub_configs = {"text_config": LlamaConfig, "vision_config": CLIPVisionConfig, "sam_config": SamConfig}

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        sam_config=None,
        system: str = "UGround",
        mm_projector_type: str = "mlp2x_gelu",
        mm_vision_select_layer: int = -2,
        out_dim: int = 256,
        seg_token_num: int = 1,
        image_feature_scale_num: int = 1,
        seg_token_ids=(),
        rej_token_ids=(),
        im_start_id: int | None = None,
        im_end_id: int | None = None,
        pad_train_clip_images: bool = False,
        resize_vision_tower: bool = False,
        resize_vision_tower_size: int = 224,
        llm_image_grid: int | None = None,
        vision_tower_for_mask: bool = False,
        separate_mm_projector: bool = False,
        mm_projector_hidden_dim: int = 1,
        mm_projector_out_dim: int = 1,
        mode: int = 3,
        gate: str = "reference",
        estimator: str = "leave_one_out",
        policy_samples: int = 4,
        baseline_type: str = "ema",
        baseline_beta: float = 1.0,
        critic_hidden_dim: int = 128,
        reward: str = "target",
        eval_legacy: bool = False,
        map_geometry: str = "fit",
        read_num_points: int = 60,
        read_t_pos: float = 0.8,
        read_t_neg: float = 0.2,
        read_down_sample: int = 1,
        read_point_space: str = "grid",
        mask_prompt: bool = True,
        map_loss: bool = True,
        map_loss_layers: str = "chosen",
        conv_type: str = "llava_v1",
        **kwargs,
    ):
        self.text_config = _as_config(LlamaConfig, text_config)
        self.vision_config = _as_config(CLIPVisionConfig, vision_config)
        self.sam_config = _as_config(SamConfig, sam_config)
        self.system = system
        self.mm_projector_type = mm_projector_type
        self.mm_vision_select_layer = mm_vision_select_layer
        self.out_dim = out_dim
        self.seg_token_num = seg_token_num
        self.image_feature_scale_num = image_feature_scale_num
        self.seg_token_ids = list(seg_token_ids)
        self.rej_token_ids = list(rej_token_ids)
        self.im_start_id = im_start_id
        self.im_end_id = im_end_id
        self.pad_train_clip_images = pad_train_clip_images
        self.resize_vision_tower = resize_vision_tower
        self.resize_vision_tower_size = resize_vision_tower_size
        self.llm_image_grid = llm_image_grid
        self.vision_tower_for_mask = vision_tower_for_mask
        self.separate_mm_projector = separate_mm_projector
        self.mm_projector_hidden_dim = mm_projector_hidden_dim
        self.mm_projector_out_dim = mm_projector_out_dim
        self.mode = mode
        self.gate = gate
        self.estimator = estimator
        self.policy_samples = policy_samples
        self.baseline_type = baseline_type
        self.baseline_beta = baseline_beta
        self.critic_hidden_dim = critic_hidden_dim
        self.reward = reward
        self.eval_legacy = eval_legacy
        self.map_geometry = map_geometry
        self.read_num_points = read_num_points
        self.read_t_pos = read_t_pos
        self.read_t_neg = read_t_neg
        self.read_down_sample = read_down_sample
        self.read_point_space = read_point_space
        self.mask_prompt = mask_prompt
        self.map_loss = map_loss
        self.map_loss_layers = map_loss_layers
        self.conv_type = conv_type
        super().__init__(**kwargs)

    @property
    def num_layers(self) -> int:
        """Hidden states of the LLM: embeddings and every layer."""
        return self.text_config.num_hidden_layers + 1

    @property
    def tokens_per_target(self) -> int:
        return self.seg_token_num * self.image_feature_scale_num

    @property
    def clip_feature_width(self) -> int:
        """Width of the CLIP features that the mask decoder reads, after their projector."""
        if self.separate_mm_projector and self.mm_projector_out_dim != 1:
            return self.vision_config.hidden_size
        return self.text_config.hidden_size

    @property
    def clip_image_size(self) -> int:
        """Side in pixels of the square that CLIP sees."""
        return self.resize_vision_tower_size if self.resize_vision_tower else self.vision_config.image_size

    @property
    def image_grid(self) -> int:
        """Image tokens of the LLM along one side; resizing the tower does not change it."""
        return self.llm_image_grid or self.vision_config.image_size // self.vision_config.patch_size

    @property
    def num_image_tokens(self) -> int:
        return self.image_grid**2


def _as_config(kind, value):
    """A configuration object of its own: transformers shares and mutates the ones it is given."""
    if value is None:
        return kind()
    return kind(**value) if isinstance(value, dict) else copy.deepcopy(value)
