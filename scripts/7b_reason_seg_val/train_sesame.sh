#!/usr/bin/env bash
# Trains SESAME on LLaVA-1.6-7B on ReasonSeg.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b/sesame "$@"
