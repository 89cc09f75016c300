"""Train a grounding model: flags -> model and data -> DeepSpeed -> loop.

    deepspeed train_ds.py --version …        torchrun --standalone --nproc_per_node 2 train_ds.py --version …
    python train_ds.py --version …           (one process; GPU if there is one, otherwise CPU)
    python train_ds.py --recipe 7b_reason_seg_val/uground_llava1.5_ema      python train_ds.py --config FILE.yaml

A run lives in runs/<exp_name>/: ckpt_model/ (latest) and best_ckpt_model/ (by cIoU on the first --val_dataset),
scores.json, metrics.jsonl, tensorboard/, config.yaml (for --config), meta.log (all output) and meta/ (what every launch
ran; see utils.tracking).
The same command resumes a run where it stopped. --dry_run says before whether it will fit.
"""

import shlex
from collections.abc import Sequence

from groundscore.errors import run_main
from training.arguments import given_flags, parse_arguments
from training.stopping import EndAtOnce, launchers


def main(argv: Sequence[str]) -> None:
    """Parse the flags, then train, try out or evaluate."""
    config = parse_arguments(argv)
    if config.print_flags:
        print(shlex.join(given_flags(config)))
        return
    with EndAtOnce() as at_once:
        started_by = launchers()
        # torch and DeepSpeed only now, so that --help and a mistyped flag answer at once
        from training import run
        from training.building import build
        from training.preflight import preflight

        with run.begun(config, at_once) as launch:
            if config.eval_only:
                run.evaluate_only(launch)
                return
            built = build(launch)
            if config.dry_run:
                preflight(launch, built)
            else:
                run.train_to_end(launch, built, started_by)


if __name__ == "__main__":
    run_main(main)
