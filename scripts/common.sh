# shellcheck shell=bash
# Starts the programs for the recipes: a script sources this file and calls one of the functions at its end with the
# name of a recipe in scripts/recipes, which holds every number, and the arguments that it was given itself.
# Here are the environment variables, and how processes are started.
set -euo pipefail

script="${BASH_SOURCE[-1]}"
script="$(basename "$(cd "$(dirname "$script")" && pwd)")/$(basename "$script")"

usage() {
    echo "Usage: ./scripts/$script [ARGUMENT...]"
    echo
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[-1]}"
    cat <<'HELP'

Arguments go to the program that is started; flags win over the recipe. Variables, with their defaults:
  DRY_RUN    1 prints the command with all its flags and leaves
  DATA       root of the data sets                      (dataset; dataset/miniature or, test_…, miniature_all)
  BASE       directory of the base models               (DATA; miniature/weights)
  LLAVA CLIP SAM   each of them, wherever it is         (BASE/llava-v1.5-7b, BASE/clip-vit-large-patch14-336, …)
  RUNS       where runs are kept                        (runs)
  VERSION    model to evaluate, show or talk with       (the merged model of the run, else the run itself)
  GPUS       numbers or names of the GPUs to use        (CUDA_VISIBLE_DEVICES; else as many as the recipe says)
  DEVICE     cuda or cpu                                (cuda; miniature: cpu)
  PROCESSES  training processes on a CPU                (2 where there are two cores)
  LAUNCHER   deepspeed, torchrun or none                (deepspeed on GPUs, torchrun on a CPU, none under srun)
  HOSTFILE   machines, for deepspeed                    (this one)
  MASTER_PORT   where processes meet                    (a free one)
  HOST PORT  address of web pages                       (127.0.0.1, the program's own)
  BIN        directory of python, deepspeed, torchrun   (.venv/bin)
HELP
}

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    usage
    exit 0
fi

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
DRY_RUN="${DRY_RUN:-}"
BIN="${BIN:-.venv/bin}"
RUNS="${RUNS:-runs}"
HOST="${HOST:-127.0.0.1}"

# ---- what scripts call ----------------------------------------------------------------------------------------------

train() { # RECIPE FLAG...
    use "$1"
    local flags=(--recipe "$recipe")
    pass log_base_dir "$RUNS" runs
    pass dataset_dir "$DATA"
    pass version "$LLAVA"
    pass vision_tower "$CLIP"
    pass vision_pretrained "$SAM"
    pass device "$DEVICE"
    need_data "ade20k,refcoco,grefcoco,reason_seg,llava"
    need LLAVA "the base model"
    if [[ -n "$CLIP" ]]; then need CLIP "the CLIP tower"; fi
    if [[ -n "$SAM" ]]; then need SAM "SAM"; fi
    local gpus
    gpus="$(setting gpus)"
    GPUS="${GPUS:-${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((${gpus:-1} - 1)))}}"
    set -- "${flags[@]}" "${@:2}"
    if [[ -n "$DRY_RUN" ]]; then
        need_program "$BIN/python"
        local all
        all="$("$BIN/python" train_ds.py "$@" --print_flags)"
        eval "set -- $all"
    fi
    launch train_ds.py "$@"
}

merge() { # RECIPE FLAG...: makes one self-contained model of the run
    use "$1"
    need RUN "the run to merge; train it first" RUNS
    one_process merge_lora_weights.py --weight "$RUN" --save_path "$MERGED" "${@:2}"
}

evaluate() { # RECIPE FLAG...
    use "$1"
    need_data "ade20k,refcoco,grefcoco,reason_seg,llava"
    with_model eval.py --dataset_dir "$DATA" --log_base_dir "$RUNS" "${@:2}"
}

evaluate_false_premises() { # RECIPE FLAG...
    if [[ "$1" == miniature/* ]]; then DATA="${DATA:-dataset/miniature_all}"; fi # its usual data set has none
    use "$1"
    need_data
    with_model eval.py --dataset_dir "$DATA" --log_base_dir "$RUNS" --answer generated \
        --val_dataset "fprefcoco|val||fprefcoco+|val||fprefcocog|val" "${@:2}"
}

chat() { # RECIPE FLAG...
    use "$1"
    with_model chat.py "${@:2}"
}

model_page() { # RECIPE TAB FLAG...: a tab of the web page about the model
    use "$1"
    need_data "ade20k,refcoco,grefcoco,reason_seg,llava"
    with_model app.py --dataset_dir "$DATA" --host "$HOST" ${PORT:+--port "$PORT"} --tab "${@:2}"
}

data_page() { # RECIPE FLAG...: the web page about the training data
    use "$1"
    need DATA "the root of the data sets (dataloaders/README.md shows its layout)"
    one_process app.py --tab data --dataset_dir "$DATA" --host "$HOST" ${PORT:+--port "$PORT"} "${@:2}"
}

curves() { # RECIPE FLAG...: TensorBoard of the run
    use "$1"
    tensorboard "$RUN" "${@:2}"
}

curves_of_all() { # FLAG...: TensorBoard of all runs
    tensorboard "$RUNS" "$@"
}

# ---- a recipe and the variables -------------------------------------------------------------------------------------

use() { # RECIPE: set the variables that the user has not
    recipe="$1"
    run="$(setting exp_name)"
    RUN="$RUNS/$run"
    MERGED="$RUN/hf-$run"
    DEVICE="${DEVICE:-$(setting device)}"
    DATA="${DATA:-$(setting dataset_dir)}"
    local base
    base="$(dirname "$(setting version)")"
    if [[ "$base" == "$(setting dataset_dir)" ]]; then base="$DATA"; fi # base models lie beside the data
    BASE="${BASE:-$base}"
    LLAVA="${LLAVA:-$BASE/$(basename "$(setting version)")}"
    if [[ -n "$(setting vision_tower)" ]]; then
        CLIP="${CLIP:-$BASE/$(basename "$(setting vision_tower)")}"
    else
        CLIP='' # the base model has an image encoder of its own
    fi
    if [[ -n "$(setting vision_pretrained)" ]]; then
        SAM="${SAM:-$BASE/$(basename "$(setting vision_pretrained)")}"
    else
        SAM='' # PixelLM's masks come from CLIP's features
    fi
}

setting() { # NAME: its value in the recipe, nothing where it has none
    sed -n "s/^$1: *\([^ ]*\).*/\1/p" "scripts/recipes/$recipe.yaml"
}

pass() { # NAME VALUE [USUAL]: add a flag whose value is not the recipe's
    if [[ "$2" != "${3:-$(setting "$1")}" ]]; then flags+=("--$1" "$2"); fi
}

need() { # VARIABLE WHAT [VARIABLE TO SET]: complain where the path is missing
    local path="${!1}"
    if [[ -n "$DRY_RUN" || -e "$path" ]]; then return; fi
    # A hub id is left to the program.
    if [[ "$path" =~ ^[^./~][^/]*/[^/]+$ && ! -e "${path%%/*}" ]]; then return; fi
    die "$path does not exist: $2. Put it there, or set ${3:-$1} to where it is."
}

need_data() { # [SETS]: the data sets; the miniature's are generated where they are missing
    if [[ "$recipe" == miniature/* && -z "$DRY_RUN" && ! -e "$DATA" ]]; then
        "$BIN/python" -m miniature.data --out "$DATA" --scale 0.75 ${1:+--sets "$1"}
    fi
    need DATA "the root of the data sets (dataloaders/README.md shows its layout)"
}

need_program() { # PATH
    [[ -x "$1" ]] || die "$1 does not exist: ./build.sh makes the environment, or set BIN to where it is."
}

# ---- starting things ------------------------------------------------------------------------------------------------

start() { # COMMAND...: shown, and started unless this is a dry run
    if [[ -n "$DRY_RUN" ]]; then
        quoted "$@"
        exit 0
    fi
    need_program "$1"
    echo "[${script%.sh}] $(quoted "$@")" >&2
    exec "$@"
}

quoted() { # COMMAND...: as it can be typed
    local word line=''
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_./,:=+-]+$ ]] || word="${word@Q}"
        line+=" $word"
    done
    echo "${line:1}"
}

one_process() { # PROGRAM FLAG...: on one device
    if [[ "$DEVICE" != cpu ]]; then export CUDA_VISIBLE_DEVICES="${GPUS:-${CUDA_VISIBLE_DEVICES:-0}}"; fi
    start "$BIN/python" "$@"
}

with_model() { # PROGRAM FLAG...: on one device, with VERSION, the merged model or else the run
    if [[ ! -e "$MERGED" && -e "$RUN" ]]; then MERGED="$RUN"; fi
    VERSION="${VERSION:-$MERGED}"
    need VERSION "the trained model; scripts/${script%/*}/train_… and merge_lora_weight_… make it"
    one_process "$1" --version "$VERSION" --device "$DEVICE" "${@:2}"
}

launch() { # PROGRAM FLAG...: on all processes
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

tensorboard() { # DIRECTORY FLAG...
    local directory="$1" port
    port="${PORT:-$(free_port 6006)}"
    need directory "the run to show; train it first" RUNS
    echo "http://$HOST:$port shows $directory" >&2
    start "$BIN/tensorboard" --logdir "$directory" --host "$HOST" --port "$port" "${@:2}"
}

free_port() { # [FIRST]: the first free one from a random start, so that recipes that start together do not meet
    local port="${1:-$((24900 + RANDOM % 90))}"
    while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}
