#!/usr/bin/env bash
# Trains GSVA on LLaVA-1.6-13B on semantic sets, referring expressions, dialogues and MUSE.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 13b/gsva "$@"
