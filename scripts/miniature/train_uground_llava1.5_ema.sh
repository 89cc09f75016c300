#!/usr/bin/env bash
# UGround on the miniature: referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train --dataset "refer_seg||reason_seg" --sample_rates 1,1 --refer_seg_data refcoco --val_dataset "ReasonSeg|val" "$@"
