#!/usr/bin/env bash
# Measures what recording costs on a machine with a GPU, beside torch.profiler, in interleaved rounds.
# Usage: tools/gpu/overhead.sh [MODEL [SECONDS [VARIANTS]]]
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/overhead.log") 2>&1
model=${1:-/tmp/model}
make_model "$model"
step overhead
limit $((${2:-420} + 150)) python3 tools/gpu/overhead.py "$model" --seconds "${2:-420}" \
  --variants "${3:-bare,calls,light,deep,profiler}" --json "$out/overhead.json"
