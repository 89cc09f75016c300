#!/usr/bin/env bash
# Scores UGround on the miniature with an EMA baseline on false premises: does it see, say and segment?
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate_false_premises miniature/uground_llava1.5_ema "$@"
