#!/usr/bin/env bash
# Makes the miniature's base models from nothing: random weights -> trained on generated images and dialogues.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/pretrain.sh [TRAIN_DS ARGUMENT...]

Generates images of its own (seed 1; the quickstart's have seed 0), builds base models with random weights and trains
all of them, in three stages, as the published ones came about:

  vision      CLIP (or Qwen3-VL's image encoder) tells what its patches show and where, SAM (or SAM 2.1) draws what is
              pointed at, described, or shown by a coarse map; side by side, a core each
  language    questions about images, answered in words: projector and LLM
  grounding   all eight families

The last stage trains UGround without its policy: its gate stays zero, and the map of a random layer is trained for each
target, so that no layer of the LLM has a head start. The images' features are kept meanwhile, the encoders frozen.

About an hour and a half on two idle cores. Start it again to go on where it stopped. Arguments go to all runs of train_ds.py.

  BACKBONE llava or qwen3_vl       (default llava)
  DECODER  sam, sam_hq, sam2 or sam3_tracker (default sam, with qwen3_vl sam2)
  MAPS     random, none or last: whose similarity maps the last stage trains (default random); the others are for the
           study of the layer policy, share the first stages and go to RUNS/base_none, RUNS/base_last
  DATA     images                  (default dataset/miniature_pretrain)
  SCALE    size of the data set    (default 5)
  RUNS     where stages are kept   (default runs/miniature_base, runs/miniature_base_qwen3_vl, or with _DECODER)
  OUT      the base to write       (default miniature/weights, miniature/weights_qwen3_vl, or with _DECODER)
  STEPS    of CLIP and of SAM      (default 2500,4000)
  EPOCHS   of the other stages     (default 4,4; with qwen3_vl 2,3): each of 550 and of 350 steps
HELP
    exit 0
fi

BACKBONE="${BACKBONE:-llava}"
case "$BACKBONE" in
    llava) suffix="" encoder=clip decoder=sam images=(--pad_train_clip_images) epochs=4,4 ;;
    qwen3_vl) suffix=_qwen3_vl encoder=qwen3_vl decoder=sam2 images=() epochs=2,3 ;;
    *) echo "BACKBONE=$BACKBONE: the miniature has llava and qwen3_vl" >&2 && exit 2 ;;
esac
DECODER="${DECODER:-$decoder}"
if [[ "$DECODER" != "$decoder" ]]; then suffix+="_$DECODER"; fi
case "$DECODER" in
    sam) segmenter=sam_miniature.pth ;;
    sam_hq | sam2 | sam3_tracker) segmenter="${DECODER}_miniature" ;;
    *) echo "DECODER=$DECODER: the miniature has sam, sam_hq, sam2 and sam3_tracker" >&2 && exit 2 ;;
esac
MAPS="${MAPS:-random}"
DATA="${DATA:-dataset/miniature_pretrain}"
SCALE="${SCALE:-5}"
RUNS="${RUNS:-runs/miniature_base$suffix}"
case "$MAPS" in
    random) maps=(--mode 2 --estimator sample --policy_loss_weight 0) ;;
    none) maps=(--mode 1 --no_mask_prompt --no_map_loss) ;;
    last) maps=(--mode 1) ;;
    *) echo "MAPS=$MAPS: expected random, none or last" >&2 && exit 2 ;;
esac
if [[ "$MAPS" == random ]]; then
    grounding=grounding OUT="${OUT:-miniature/weights$suffix}"
else
    grounding="grounding_$MAPS" OUT="${OUT:-$RUNS/base_$MAPS}"
fi
STEPS="${STEPS:-2500,4000}"
EPOCHS="${EPOCHS:-$epochs}"
# Small matrices on few cores: two processes of one thread each beat one process of two threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

BASE=() # what a run starts from
train() { # run, arguments...
    local run=$1
    shift
    .venv/bin/torchrun --standalone --nproc_per_node 2 train_ds.py --exp_name "$run" --log_base_dir "$RUNS" \
        "${BASE[@]}" --dataset_dir "$DATA" "${images[@]}" --no_gradient_checkpointing --lora_r 0 \
        --unfreeze mm_projector,language_model --cache_features "$RUNS/features" --cache_limit_gb 10 --batch_size 6 \
        --vqa_conversations 8 --optimizer muon --grad_accumulation_steps 1 --zero_stage 0 --print_freq 20 --no_eval "$@"
}
base_of() { # directory
    BASE=(--version "$1/$BACKBONE" --vision_pretrained "$1/$segmenter")
    if [[ "$BACKBONE" == llava ]]; then BASE+=(--vision_tower "$1/clip"); fi
}
./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale "$SCALE"
[[ -e "$RUNS/untrained/$segmenter" ]] || .venv/bin/python -m miniature.base --out "$RUNS/untrained" --dataset_dir "$DATA" \
    --backbone "$BACKBONE" --decoder "$DECODER"
.venv/bin/python -m miniature.vision "$encoder" --base "$RUNS/untrained" --steps "${STEPS%,*}" &
clip=$!
.venv/bin/python -m miniature.vision "$DECODER" --base "$RUNS/untrained" --steps "${STEPS#*,}"
wait "$clip"
base_of "$RUNS/untrained"
train language --model_key LISA --dataset vqa --sample_rates 1 \
    --steps_per_epoch 550 --epochs "${EPOCHS%,*}" --lr 1.5e-3 --warmup_num_steps 50 "$@"
.venv/bin/python -m miniature.base --out "$RUNS/speaking" --from_run "$RUNS/language"
base_of "$RUNS/speaking"
train "$grounding" --model_key UGround "${maps[@]}" \
    --sample_rates "3,12,3,3,5,4,2,3" --num_classes_per_sample 5 --use_expand_question_list \
    --ce_loss_weight 3 --dice_loss_weight 4 --steps_per_epoch 350 --epochs "${EPOCHS#*,}" --lr 1e-3 --warmup_num_steps 50 "$@"
.venv/bin/python -m miniature.base --out "$OUT" --from_run "$RUNS/$grounding"
