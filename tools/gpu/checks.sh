#!/usr/bin/env bash
# Checks on a machine with a GPU what a CPU cannot show: that CUDA graphs are left alone, what eager module loading moves,
# what attaching to a server sees and costs it.
# Usage: tools/gpu/checks.sh [MODEL]        Without MODEL, a 1.5B model with random weights is made in /tmp/model.
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/checks.log") 2>&1
model=${1:-/tmp/model}

step machine
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
make_model "$model"
step "CUDA graphs under light, calls and deep recording"
limit 130 python3 tools/gpu/graphs.py --keep "$work"
step "attached to a server"
limit 130 python3 tools/gpu/attach.py "$model"
step "module loading, lazy and eager"
limit 170 python3 tools/gpu/eager.py "$model" --pairs 2 --json "$out/eager.json"
pack graphs-light graphs-calls graphs-deep
