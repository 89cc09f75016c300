#!/usr/bin/env bash
# Makes the miniature's base models from nothing: random weights -> trained on generated pictures and dialogues.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/pretrain.sh [TRAIN_DS ARGUMENT...]

Generates pictures of its own (seed 1; the quickstart's have seed 0), builds untrained base models and trains
everything in them (CLIP, projector, LLaMA, SAM) for at most an hour on two cores: first on dialogues in words, then
on referring expressions, label maps and dialogues. Writes the base that the quickstart starts from. No reasoning
question about a mask is among the training data. Arguments go to both runs of train_ds.py.

  DATA     pictures                (default dataset/miniature_pretrain)
  OUT      the base to write       (default miniature/weights)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
OUT="${OUT:-miniature/weights}"
LANGUAGE=runs/miniature_language
GROUNDING=runs/miniature_grounding
# Small matrices on few cores: two processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

train() { # run, base models, arguments...
    local run=$1 base=$2
    shift 2
    .venv/bin/torchrun --standalone --nproc_per_node 2 train_ds.py --exp_name "$(basename "$run")" \
        --version "$base/llava" --vision_tower "$base/clip" --vision_pretrained "$base/sam_miniature.pth" \
        --dataset_dir "$DATA" --mode 2 --pad_train_clip_images --no_gradient_checkpointing --lora_r 0 \
        --grad_accumulation_steps 1 --print_freq 20 --no_eval "$@"
}

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale 4 --sets ade20k,refcoco,grefcoco,reason_seg,llava
.venv/bin/python -m miniature.base --out "$LANGUAGE/untrained" --dataset_dir "$DATA"
train "$LANGUAGE" "$LANGUAGE/untrained" --dataset vqa --sample_rates 1 \
    --unfreeze vision_tower,mm_projector,language_model \
    --batch_size 16 --steps_per_epoch 200 --epochs 5 --lr 1.5e-3 "$@"
.venv/bin/python -m miniature.base --out "$LANGUAGE/base" --from_run "$LANGUAGE"
train "$GROUNDING" "$LANGUAGE/base" --dataset "sem_seg||refer_seg||vqa" --sample_rates "1.5,6,1.5" \
    --sem_seg_data ade20k --refer_seg_data refcoco --num_classes_per_sample 3 --num_classes_per_question 2 \
    --unfreeze vision_tower,sam_encoder,mm_projector,language_model \
    --batch_size 8 --steps_per_epoch 250 --epochs 9 --lr 1e-3 --dice_loss_weight 4 "$@"
.venv/bin/python -m miniature.base --out "$OUT" --from_run "$GROUNDING"
