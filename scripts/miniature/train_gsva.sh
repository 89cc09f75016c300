#!/usr/bin/env bash
# Trains GSVA on the miniature on expressions with no, one or many targets, reasoning questions and dialogues.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/gsva "$@"
