#!/usr/bin/env bash
# Trains UGround on all eight families at once, from the miniature's base models, and merges it into one model.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/train_unified.sh [TRAIN_DS ARGUMENT...]

One model for every kind of query: named or reasoned about, one target or many, present or absent, in one turn or
several. Trains on the images of scripts/miniature/pretrain.sh (seed 1), scores the model on held-out images (seed 0)
with answers that it writes itself, in masks and in words, and merges it. About 45 minutes on two idle cores. Start it
again to go on where it stopped. Arguments go to train_ds.py.

  DATA     images to train on      (default dataset/miniature_pretrain)
  SCALE    size of that data set   (default 5)
  HELD_OUT images to score on      (default dataset/miniature_all)
  BASE     base models             (default miniature/weights)
  RUNS     where the run is kept   (default runs)
  OUT      the model to write      (default miniature/unified)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
SCALE="${SCALE:-5}"
HELD_OUT="${HELD_OUT:-dataset/miniature_all}"
BASE="${BASE:-miniature/weights}"
RUNS="${RUNS:-runs}"
OUT="${OUT:-miniature/unified}"
RUN="$RUNS/miniature_unified"
SPLITS="ReasonSeg|val||refcoco|unc|val||refcoco+|unc|val||refcocog|umd|val||grefcoco|unc|val||refzom|final|val"
SPLITS+="||fprefcoco|val||R-refcoco|val||MultiReasonSeg|val"
# Small matrices on few cores: two processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale "$SCALE"
.venv/bin/python -m miniature.data --out "$HELD_OUT" --scale 0.75
.venv/bin/torchrun --standalone --nproc_per_node 2 train_ds.py --exp_name "$(basename "$RUN")" --log_base_dir "$RUNS" \
    --version "$BASE/llava" --vision_tower "$BASE/clip" --vision_pretrained "$BASE/sam_miniature.pth" \
    --dataset_dir "$DATA" --model_key UGround --mode 3 --pad_train_clip_images --no_gradient_checkpointing --lora_r 0 \
    --unfreeze mm_projector,language_model --cache_features "$RUN.features" --cache_limit_gb 10 \
    --sample_rates "3,12,4,4,8,4,3,4" --num_classes_per_sample 5 --use_expand_question_list --vqa_conversations 8 \
    --multi_turn_share 0.4 \
    --refer_seg_data "refclef||refcoco||refcoco+||refcocog||grefcoco||grefcoco||refzom" \
    --optimizer muon --batch_size 6 --grad_accumulation_steps 1 --zero_stage 0 --ce_loss_weight 3 --dice_loss_weight 4 \
    --lr 1e-3 --warmup_num_steps 50 --steps_per_epoch 650 --epochs 4 --print_freq 20 --no_eval "$@"
.venv/bin/python eval.py --version "$RUN" --dataset_dir "$HELD_OUT" --val_dataset "$SPLITS" --answer generated \
    --val_batch_size 16 --max_new_tokens 64 --device cpu --output "$RUN/held_out.json" --sheet "$RUN/contact_sheet.png" \
    --sheet_samples 18
.venv/bin/python -m miniature.words --version "$RUN" --device cpu --output "$RUN/words.json"
.venv/bin/python -m miniature.classes --version "$RUN" --device cpu --output "$RUN/classes.json"
.venv/bin/python merge_lora_weights.py --weight "$RUN" --save_path "$OUT" --overwrite --precision fp16 \
    --report "$RUN/held_out.json"
