#!/usr/bin/env bash
# Scores UGround on the miniature with a critic baseline. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate miniature/uground_llava1.6_critic "$@"
