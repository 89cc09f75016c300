#!/usr/bin/env bash
# Makes the miniature's base models from nothing: random weights -> trained on generated images and dialogues.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/pretrain.sh [TRAIN_DS ARGUMENT...]

Generates images of its own (seed 1; the quickstart's have seed 0), builds base models with random weights and trains
all of them, in three stages, as the published ones came about:

  vision      CLIP tells what its patches show, SAM draws what points lie on; side by side, a core each
  language    dialogues in words: projector and LLM
  grounding   all eight families: SAM, projector and LLM, without similarity maps and without a policy, so that no
              layer of the LLM has a head start

About two hours on two idle cores. Start it again to go on where it stopped. Arguments go to both runs of train_ds.py.

  DATA     images                  (default dataset/miniature_pretrain)
  RUNS     where stages are kept   (default runs/miniature_base)
  OUT      the base to write       (default miniature/weights)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
RUNS="${RUNS:-runs/miniature_base}"
OUT="${OUT:-miniature/weights}"
# Small matrices on few cores: two processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

train() { # run, base models, arguments...
    local run=$1 base=$2
    shift 2
    .venv/bin/torchrun --standalone --nproc_per_node 2 train_ds.py --exp_name "$run" --log_base_dir "$RUNS" \
        --version "$base/llava" --vision_tower "$base/clip" --vision_pretrained "$base/sam_miniature.pth" \
        --dataset_dir "$DATA" --model_key LISA --pad_train_clip_images --no_gradient_checkpointing --lora_r 0 \
        --cache_features "$RUNS/features" --cache_limit_gb 10 --batch_size 12 \
        --grad_accumulation_steps 1 --zero_stage 0 --print_freq 20 --no_eval "$@"
}

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale 5
[[ -e "$RUNS/untrained/sam_miniature.pth" ]] || .venv/bin/python -m miniature.base --out "$RUNS/untrained" --dataset_dir "$DATA"
.venv/bin/python -m miniature.vision clip --base "$RUNS/untrained" --steps 2000 &
clip=$!
.venv/bin/python -m miniature.vision sam --base "$RUNS/untrained" --steps 2000
wait "$clip"
train language "$RUNS/untrained" --dataset vqa --sample_rates 1 --unfreeze mm_projector,language_model \
    --steps_per_epoch 250 --epochs 6 --lr 1.5e-3 --warmup_num_steps 50 "$@"
.venv/bin/python -m miniature.base --out "$RUNS/speaking" --from_run "$RUNS/language"
train grounding "$RUNS/speaking" --sample_rates "3,12,3,3,4,4,2,3" --num_classes_per_sample 5 \
    --use_expand_question_list --unfreeze sam_encoder,mm_projector,language_model \
    --steps_per_epoch 200 --epochs 20 --lr 1e-3 --dice_loss_weight 4 "$@"
.venv/bin/python -m miniature.base --out "$OUT" --from_run "$RUNS/grounding"
