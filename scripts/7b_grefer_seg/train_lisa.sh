#!/usr/bin/env bash
# Trains LISA on LLaVA-1.6-7B on gRefCOCO.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b/lisa "$@"
