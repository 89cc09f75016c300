#!/usr/bin/env bash
# Trains LISA on LLaVA-1.6-13B on gRefCOCO.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 13b/lisa "$@"
