#!/usr/bin/env bash
# Trains GSVA on LLaVA-1.6-7B on semantic sets, referring expressions, dialogues and MUSE.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b/gsva "$@"
