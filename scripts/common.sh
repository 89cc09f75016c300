# shellcheck shell=bash
# What all recipes share. A recipe sources this file and calls one of the functions at its end, with what is its own.
#
# Its place and name say what it is about:
#   scripts/7b_reason_seg_val/train_uground_llava1.5_ema.sh
#           folder: size and task   system, base, baseline of the reward
# That makes the run: runs/UGround-7b_reason_seg_val_llava1.5_ema (and runs/LISA-7b, whose recipe is the same in all
# folders of a size). Scripts that differ in their names only are links to one file in scripts/shared.
set -euo pipefail

usage() {
    echo "Usage: ./scripts/$folder/$name.sh [ARGUMENT...]"
    echo
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
    cat <<'HELP'

Arguments go to the program that is started; the last of two equal flags counts. Variables, with their defaults:
  DRY_RUN    1 prints the command and leaves
  DATA       root of the data sets                      (dataset; dataset/miniature or, test_…, miniature_all)
  BASE       directory of the base models               (DATA; miniature/weights)
  LLAVA CLIP SAM   each of them, wherever it is         (BASE/llava-v1.5-7b, BASE/clip-vit-large-patch14-336, …)
  RUNS       where runs are kept                        (runs)
  VERSION    model to evaluate, show or talk with       (the merged model of the run, else the run itself)
  GPUS       numbers or names of the GPUs to use        (CUDA_VISIBLE_DEVICES; else 0, or what the recipe says)
  DEVICE     cuda or cpu                                (cuda; miniature: cpu)
  PROCESSES  training processes on a CPU                (2 where there are two cores)
  LAUNCHER   deepspeed, torchrun or none                (deepspeed on GPUs, torchrun on a CPU, none under srun)
  HOSTFILE   machines, for deepspeed                    (this one)
  MASTER_PORT   where processes meet                    (a free one)
  HOST PORT  address of web pages                       (127.0.0.1, the program's own)
  BIN        directory of python, deepspeed, torchrun   (.venv/bin)
HELP
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# ---- which recipe this is -------------------------------------------------------------------------------------------

script="${BASH_SOURCE[-1]}"
folder="$(basename "$(cd "$(dirname "$script")" && pwd)")"
name="$(basename "$script" .sh)"
size="${folder%%_*}" # 7b, 13b, miniature
system='' llava=llava1.5 baseline=ema
case "_${name}_" in
    *_uground_*) system=UGround ;;
    *_lisa_*) system=LISA ;;
    *_read_*) system=READ ;;
    *_gsva_*) system=GSVA ;;
    *_pixellm_*) system=PixelLM ;;
    *_sesame_*) system=SESAME ;;
esac
case "$size" in
    7b | 13b | miniature) ;;
    *) die "$script is shared by the folders of scripts/; start it there, for example scripts/miniature/$(basename "$script")" ;;
esac
[[ "$name" != *llava1.6* ]] || llava=llava1.6
[[ "$name" != *_critic ]] || baseline=critic
if [[ "$system" == UGround ]]; then
    run="UGround-${folder}_${llava}_${baseline}"
else
    run="$system-$size"
    llava=llava1.6 # the base of all five
fi

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    usage
    exit 0
fi

# ---- where things are -----------------------------------------------------------------------------------------------

cd "$(dirname "${BASH_SOURCE[0]}")/.."
DRY_RUN="${DRY_RUN:-}"
BIN="${BIN:-.venv/bin}"
RUNS="${RUNS:-runs}"
RUN="$RUNS/$run"
HOST="${HOST:-127.0.0.1}"
MERGED="$RUN/hf-$run"
GPUS="${GPUS:-${CUDA_VISIBLE_DEVICES:-${gpus:-0}}}"
if [[ "$size" == miniature ]]; then
    DATA="${DATA:-dataset/miniature${every_set:+_all}}"
    BASE="${BASE:-miniature/weights}"
    DEVICE="${DEVICE:-cpu}"
    LLAVA="${LLAVA:-$BASE/llava}"
    CLIP="${CLIP:-$BASE/clip}"
    SAM="${SAM:-$BASE/sam_miniature.pth}"
else
    DATA="${DATA:-dataset}"
    BASE="${BASE:-$DATA}"
    DEVICE="${DEVICE:-cuda}"
    if [[ "$llava" == llava1.5 ]]; then LLAVA="${LLAVA:-$BASE/llava-v1.5-$size}"; fi
    LLAVA="${LLAVA:-$BASE/llava-v1.6-vicuna-$size}"
    CLIP="${CLIP:-$BASE/clip-vit-large-patch14-336}"
    SAM="${SAM:-$BASE/sam_vit_h_4b8939.pth}"
fi

need() { # variable, what it is for, variable to set: complain where a path is not there
    local path="${!1}"
    if [[ -n "$DRY_RUN" || -e "$path" ]]; then return; fi
    # A hub id is left to the program.
    if [[ "$path" =~ ^[^./~][^/]*/[^/]+$ && ! -e "${path%%/*}" ]]; then return; fi
    die "$path is not there: $2. Put it there, or set ${3:-$1} to where it is."
}

# ---- starting things ------------------------------------------------------------------------------------------------

start() { # a command: shown, and started unless this is a dry run
    if [[ -n "$DRY_RUN" ]]; then
        quoted "$@"
        exit 0
    fi
    [[ -x "$1" ]] || die "$1 is not there: ./build.sh makes the environment, or set BIN to where it is."
    echo "[$folder/$name] $(quoted "$@")" >&2
    exec "$@"
}

quoted() { # a command as it can be typed
    local word line=''
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_./,:=+-]+$ ]] || word="${word@Q}"
        line+=" $word"
    done
    echo "${line:1}"
}

one_process() { # an entry point and its arguments, on one device
    if [[ "$DEVICE" != cpu ]]; then export CUDA_VISIBLE_DEVICES="$GPUS"; fi
    start "$BIN/python" "$@"
}

launch() { # an entry point and its arguments, on all processes
    local default=deepspeed
    # deepspeed takes numbers only, torchrun also the names of GPUs and of their parts (MIG).
    if [[ "$DEVICE" == cpu || "$GPUS" == *[!0-9,]* ]]; then default=torchrun; fi
    if [[ "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ]]; then default=none; fi # srun has started all of them
    case "${LAUNCHER:-$default}" in
        none) start "$BIN/python" "$@" ;;
        torchrun)
            local commas="${GPUS//[^,]/}"
            local processes=$((${#commas} + 1))
            if [[ "$DEVICE" == cpu ]]; then
                # Small matrices on few cores: two processes of one thread each beat one process of two threads.
                processes="${PROCESSES:-$(($(nproc) > 1 ? 2 : 1))}"
                export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
            else
                export CUDA_VISIBLE_DEVICES="$GPUS"
            fi
            start "$BIN/torchrun" --standalone --nproc_per_node "$processes" "$@"
            ;;
        deepspeed)
            local machines=(--include "localhost:$GPUS")
            if [[ -n "${HOSTFILE:-}" ]]; then
                need HOSTFILE "the list of machines"
                machines=(--hostfile "$HOSTFILE")
            fi
            unset CUDA_VISIBLE_DEVICES # deepspeed makes it from --include, and warns of another
            start "$BIN/deepspeed" "${machines[@]}" --master_port "${MASTER_PORT:-$(free_port)}" "$@"
            ;;
        *) die "LAUNCHER=$LAUNCHER: expected deepspeed, torchrun or none" ;;
    esac
}

free_port() { # the first free one from a random start, so that recipes that start together do not meet
    local port="${1:-$((24900 + RANDOM % 90))}"
    while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

# ---- what recipes call ----------------------------------------------------------------------------------------------

train() { # the flags in which a recipe differs from the others
    local flags=(--model_key "$system" --exp_name "$run" --log_base_dir "$RUNS" --dataset_dir "$DATA" --device "$DEVICE"
        --version "$LLAVA" --vision_tower "$CLIP")
    if [[ "$system" != PixelLM ]]; then flags+=(--vision_pretrained "$SAM"); fi # its masks come from CLIP's features
    if [[ "$system" == UGround ]]; then
        flags+=(--mode 3 --baseline_type "$baseline" --pad_train_clip_images --dice_loss_weight 4
            --num_classes_per_question 3)
    fi
    if [[ "$size" == miniature ]]; then
        flags+=(--lora_r 8 --lr 1e-3 --warmup_num_steps 20 --batch_size 8 --grad_accumulation_steps 1
            --no_gradient_checkpointing --num_classes_per_sample 4 --explanatory -1 --steps_per_epoch 230 --epochs 2
            --print_freq 10 --val_limit 40 --val_batch_size 8)
        pictures
    else
        flags+=(--lora_r "$([[ "$size" == 13b ]] && echo 64 || echo 8)" --warmup_num_steps 100 --batch_size 2
            --grad_accumulation_steps 10 --use_expand_question_list)
    fi
    need DATA "the root of the data sets (dataloaders/README.md shows its layout)"
    need LLAVA "the base model"
    need CLIP "the CLIP tower"
    if [[ "$system" != PixelLM ]]; then need SAM "SAM"; fi
    launch train_ds.py "${flags[@]}" "$@"
}

pictures() { # write the miniature's, where they are missing
    if [[ -n "$DRY_RUN" || -e "$DATA" ]]; then return; fi
    local sets=(--sets "ade20k,refcoco,grefcoco,reason_seg,llava")
    if [[ -n "${every_set:-}" ]]; then sets=(); fi
    "$BIN/python" -m miniature.data --out "$DATA" --scale 0.75 "${sets[@]}"
}

merge() { # make one self-contained model of the run
    need RUN "the run to merge; train it first" RUNS
    one_process merge_lora_weights.py --weight "$RUN" --save_path "$MERGED" "$@"
}

with_model() { # an entry point and its arguments, for VERSION, the merged model or else the run
    if [[ ! -e "$MERGED" && -e "$RUN" ]]; then MERGED="$RUN"; fi
    VERSION="${VERSION:-$MERGED}"
    need VERSION "the trained model; scripts/$folder/train_… and merge_lora_weight_… make it"
    one_process "$1" --version "$VERSION" --device "$DEVICE" "${@:2}"
}

with_data() { # an entry point and its arguments, for the data sets
    if [[ "$size" == miniature ]]; then pictures; fi
    need DATA "the root of the data sets (dataloaders/README.md shows its layout)"
    with_model "$1" --dataset_dir "$DATA" "${@:2}"
}

page() { # the web pages about a model and the data
    with_data app.py --host "$HOST" ${PORT:+--port "$PORT"} "$@"
}

dataset_page() { # the web page about the data
    need DATA "the root of the data sets (dataloaders/README.md shows its layout)"
    one_process app.py --tab data --dataset_dir "$DATA" --host "$HOST" ${PORT:+--port "$PORT"} "$@"
}

tensorboard() { # the curves of the run, or of all runs where the script names none
    local port
    port="${PORT:-$(free_port 6006)}"
    if [[ -z "$system" ]]; then RUN="$RUNS"; fi
    need RUN "the run to show; train it first" RUNS
    echo "http://$HOST:$port shows $RUN" >&2
    start "$BIN/tensorboard" --logdir "$RUN" --host "$HOST" --port "$port" "$@"
}
