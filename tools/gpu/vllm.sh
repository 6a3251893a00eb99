#!/usr/bin/env bash
# Records vLLM with torch.compile and CUDA graphs on a machine with a GPU, compile caches cold, then warm; then kills its
# engine core between two requests, and looks at what is left.
# Usage: tools/gpu/vllm.sh [MODEL]        Without MODEL, a 1.5B model with random weights is made in /tmp/model.
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/vllm.log") 2>&1
model=${1:-/tmp/model}
workload=(python3 tools/gpu/vllm_workload.py "$model")
export VLLM_LOGGING_LEVEL=INFO VLLM_CACHE_ROOT=$work/vllm-cache

python3 tools/gpu/environment.py
make_model "$model"
record 170 vllm-cold light "" "${workload[@]}"
step "without recording"
limit 120 "${workload[@]}"
record 150 vllm-warm light "" "${workload[@]}"
step "engine core killed"
limit 150 python3 tools/gpu/kill.py "$model"

pack vllm-cold vllm-warm
