#!/usr/bin/env bash
# Trains LISA on the miniature on referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/lisa "$@"
