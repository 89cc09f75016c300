#!/usr/bin/env bash
# From a clone to masks on a laptop CPU: environment, data, training, evaluation, merge, one answer, an image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/quickstart.sh [--backbone llava|qwen3_vl] [--decoder sam|sam2] [TRAIN_DS ARGUMENT...]

Installs the environment, writes the miniature's images, fine-tunes the shipped miniature base with LoRA as the 7B
recipes do, scores it on held-out images before and after, merges the adapters, asks one question, and draws a
contact sheet. Everything lands in RUNS/quickstart, but for the features of the frozen encoders, which are kept in
RUNS/features and used again. Arguments go to train_ds.py.

With --backbone qwen3_vl the base is a small model in Qwen3-VL's layout, with masks by a small SAM 2.1. --decoder takes
the mask decoder of the other base: any of the two goes with any of the two.

  RUNS       where runs are kept     (default runs)
  DATA       data set                (default dataset/miniature)
  SCALE      size of the data set    (default 0.75)
  LIMIT      images scored per split (default 60)
  BASE       base models             (default miniature/weights, miniature/weights_qwen3_vl)
  SAM        mask decoder, any kind  (default the one of --decoder, else of BASE)
  DEVICE     cpu, cuda or auto       (default cpu)
  PROCESSES  that train on a CPU     (default 1 or 2, as measured; scores differ by a point or so)
HELP
    exit 0
fi

backbone=llava decoder=""
while [[ "${1:-}" =~ ^--(backbone|decoder)(=(.*))?$ ]]; do
    name="${BASH_REMATCH[1]}"
    if [[ -n "${BASH_REMATCH[2]}" ]]; then
        value="${BASH_REMATCH[3]}" && shift
    else
        value="${2:-}" && shift "$(($# > 1 ? 2 : 1))"
    fi
    if [[ "$name" == backbone ]]; then backbone="$value"; else decoder="${value:-none}"; fi
done
case "$backbone" in
    llava) suffix="" ;;
    qwen3_vl) suffix=_qwen3_vl ;;
    *) echo "[quickstart] --backbone '$backbone': the miniature has llava and qwen3_vl" >&2 && exit 2 ;;
esac
case "$decoder" in
    "") segmenter= ;;
    sam) segmenter=miniature/weights/sam_miniature.pth ;;
    sam2) segmenter=miniature/weights_qwen3_vl/sam2_miniature ;;
    *) echo "[quickstart] --decoder '$decoder': the miniature has sam and sam2" >&2 && exit 2 ;;
esac

RUNS="${RUNS:-runs}"
DATA="${DATA:-dataset/miniature}"
SCALE="${SCALE:-0.75}"
LIMIT="${LIMIT:-60}"
BASE="${BASE:-miniature/weights$suffix}"
for own in "$BASE"/*_miniature*; do
    if [[ -z "$segmenter" || "${own##*/}" == "${segmenter##*/}" ]]; then segmenter="$own"; fi
done
SAM="${SAM:-$segmenter}"
DEVICE="${DEVICE:-cpu}"
RUN="$RUNS/quickstart"
SPLITS="ReasonSeg|val||ReasonSeg|test||refcoco|unc|val||grefcoco|unc|val"
SCORING=(--dataset_dir "$DATA" --val_dataset "$SPLITS" --answer both --limit "$LIMIT" --val_batch_size 16
    --max_new_tokens 32 --device "$DEVICE")

model=(--version "$BASE/$backbone" --vision_pretrained "$SAM")
padding=()
if [[ "$backbone" == llava ]]; then
    model+=(--vision_tower "$BASE/clip")
    padding=(--pad_train_clip_images)
fi
if [[ ! -d "$BASE/$backbone" ]]; then
    cat >&2 <<MISSING
[quickstart] $BASE/$backbone: there is no base model. The shipped ones are in miniature/weights and miniature/weights_qwen3_vl;
[quickstart] another is made from nothing, in an hour or two, by: BACKBONE=$backbone OUT="$BASE" ./scripts/miniature/pretrain.sh
[quickstart] An untrained one, which learns nothing in a quickstart but shows that all of it runs, by:
[quickstart]   .venv/bin/python -m miniature.data --out "$DATA" --scale "$SCALE"
[quickstart]   .venv/bin/python -m miniature.base --backbone $backbone --dataset_dir "$DATA" --out "$BASE"
MISSING
    exit 2
fi

./build.sh

# Small matrices: two processes of one thread beat one of two where there are two cores, and only cost more where there
# is one. Which is so is measured; cores that do nothing for a second process do nothing for a second thread either.
processes=1 threads=$(nproc)
if [[ "$DEVICE" == cpu ]]; then
    processes="${PROCESSES:-$(.venv/bin/python -m utils.cores)}"
    [[ "$processes" =~ ^[12]$ ]] || { echo "[quickstart] PROCESSES=$processes: 1 or 2" >&2 && exit 2; }
    threads=$((processes == 1 ? 1 : threads / processes))
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$threads}"
launcher=(.venv/bin/python)
if ((processes > 1)); then launcher=(.venv/bin/torchrun --standalone --nproc_per_node "$processes"); fi

stages=()
stage() { # name, command...
    local name=$1 began=$SECONDS
    shift
    printf '\n[quickstart] %s\n' "$name"
    "$@"
    stages+=("$name=$((SECONDS - began))")
}

if [[ -d "$RUN" ]]; then
    previous="$RUN.$(date +%Y%m%d-%H%M%S)"
    mv "$RUN" "$previous"
    echo "[quickstart] the previous run is kept in $previous"
fi
mkdir -p "$RUN"

stage data .venv/bin/python -m miniature.data --out "$DATA" --scale "$SCALE" \
    --sets ade20k,refcoco,grefcoco,reason_seg,llava
stage untrained .venv/bin/python eval.py "${model[@]}" --model_key UGround "${SCORING[@]}" --output "$RUN/untrained.json"
stage train "${launcher[@]}" train_ds.py \
    "${model[@]}" "${padding[@]}" --dataset_dir "$DATA" --log_base_dir "$RUNS" --exp_name quickstart \
    --model_key UGround --device "$DEVICE" \
    --dataset "refer_seg||reason_seg" --sample_rates "1,1" --refer_seg_data "refcoco||grefcoco" --explanatory -1 \
    --num_classes_per_sample 4 --mode 3 --no_gradient_checkpointing \
    --lora_r 8 --lora_dropout 0 --cache_features "$RUNS/features" --lr 1e-3 --warmup_num_steps 20 --dice_loss_weight 4 \
    --batch_size $((16 / processes)) --grad_accumulation_steps 1 --steps_per_epoch 230 --epochs 1 \
    --print_freq 20 --no_eval "$@"
stage evaluate .venv/bin/python eval.py --version "$RUN" "${SCORING[@]}" --output "$RUN/trained.json" \
    --sheet "$RUN/contact_sheet.png" --sheet_samples 12
# Questions about four held-out images go with the merged model, to show what it answers.
.venv/bin/python -c 'import json, sys
from groundscore.splits import evaluation_set, spread_items
from groundscore.annotations.bad_entries import STRICT
for item in spread_items(evaluation_set("ReasonSeg|test", sys.argv[1]), 4, STRICT):
    print(json.dumps({"image": str(item.image_path.resolve()), "prompt": item.prompts[0].strip()}))' \
    "$DATA" > "$RUN/questions.jsonl"
stage merge .venv/bin/python merge_lora_weights.py --weight "$RUN" --save_path "$RUN/hf" \
    --examples "$RUN/questions.jsonl" --report "$RUN/trained.json"
image="$DATA/reason_seg/ReasonSeg/test/test_00001.jpg"
question="$(.venv/bin/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["text"][0])' "${image%.jpg}.json")"
question="What is $question in this image? Please output segmentation mask."
stage chat .venv/bin/python chat.py --version "$RUN/hf" --device "$DEVICE" --image "$image" --prompt "$question" \
    --vis_save_path "$RUN/chat"

echo
.venv/bin/python -m miniature.report --trained "$RUN/trained.json" --untrained "$RUN/untrained.json" \
    --seconds "${stages[@]}" --out "$RUN/report.json"
cat <<NEXT

[quickstart] look at      $RUN/contact_sheet.png   (image, truth, similarity map, mask, answer)
[quickstart] all numbers  $RUN/report.json
[quickstart] next, in a browser, a terminal, and with numbers:
  .venv/bin/python app.py --version $RUN/hf --device $DEVICE --dataset_dir $DATA --runs_dir $RUNS
  .venv/bin/python chat.py --version $RUN/hf --device $DEVICE --image $image
  .venv/bin/tensorboard --logdir $RUN   (curves, scores and the answers of the contact sheet)
  .venv/bin/python eval.py --version $RUN/hf --dataset_dir $DATA --val_dataset "refcoco|unc|testA" --device $DEVICE
NEXT
