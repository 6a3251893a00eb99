#!/usr/bin/env bash
# Measures what recording costs on a machine with a GPU, beside CUPTI alone and torch.profiler, in turns.
# Usage: tools/gpu/overhead.sh [MODEL [OPTION...]]        Without MODEL, a 1.5B model with random weights is made in
# /tmp/model. The options are tools/gpu/overhead.py's.
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/overhead.log") 2>&1
model=${1:-/tmp/model}
make_model "$model"
step overhead
python3 tools/gpu/overhead.py "$model" --json "$out/overhead.json" "${@:2}"
