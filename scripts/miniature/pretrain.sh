#!/usr/bin/env bash
# Makes the miniature's base models from nothing: random weights -> trained on generated pictures and dialogues.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/pretrain.sh [TRAIN_DS ARGUMENT...]

Generates pictures of its own (seed 1; the quickstart's have seed 0), builds untrained base models, trains everything
in them (CLIP, projector, LLaMA, SAM) for at most an hour on two cores, and writes the base that the quickstart starts
from. No reasoning question is among the training data. Arguments go to train_ds.py.

  DATA     pictures                (default dataset/miniature_pretrain)
  OUT      the base to write       (default miniature/weights)
  RUN      name below runs/        (default miniature_pretrain)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
OUT="${OUT:-miniature/weights}"
RUN="${RUN:-miniature_pretrain}"
# Small matrices on few cores: two processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale 4
.venv/bin/python -m miniature.base --out "runs/$RUN/untrained" --dataset_dir "$DATA"
.venv/bin/torchrun --standalone --nproc_per_node 2 train_ds.py \
    --version "runs/$RUN/untrained/llava" \
    --vision_tower "runs/$RUN/untrained/clip" \
    --vision_pretrained "runs/$RUN/untrained/sam_miniature.pth" \
    --dataset_dir "$DATA" --exp_name "$RUN" \
    --dataset "sem_seg||refer_seg||vqa" --sample_rates "2,7,2" \
    --sem_seg_data ade20k --refer_seg_data refcoco --num_classes_per_sample 4 \
    --mode 2 --pad_train_clip_images --no_gradient_checkpointing \
    --lora_r 0 --unfreeze vision_tower,sam_encoder,mm_projector,language_model \
    --batch_size 8 --grad_accumulation_steps 1 --steps_per_epoch 250 --epochs 14 \
    --lr 1e-3 --dice_loss_weight 4 --print_freq 20 --no_eval "$@"
.venv/bin/python -m miniature.base --out "$OUT" --from_run "runs/$RUN"
