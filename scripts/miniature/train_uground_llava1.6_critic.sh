#!/usr/bin/env bash
# Trains UGround on the miniature with a critic baseline on referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/uground_llava1.6_critic "$@"
