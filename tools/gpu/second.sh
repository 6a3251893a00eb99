#!/usr/bin/env bash
# Records, on a machine with a GPU and with eBPF: transformers cold and warm, deep, with modules loaded eagerly, copies of
# pageable and of pinned memory.
# Usage: tools/gpu/second.sh [MODEL]        Without MODEL, a 1.5B model with random weights is made in /tmp/model.
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/second.log") 2>&1
model=${1:-/tmp/model}
workload=(python3 tools/gpu/hf_workload.py "$model")

forget() { # take the weights out of the page cache
  sync
  python3 -c 'import os, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)' "$model"/*.safetensors
}

step doctor
limit 60 python3 -m slmtrace doctor | head -20
make_model "$model"
step "without recording"
limit 60 "${workload[@]}"

record 60 hf-warm light "" "${workload[@]}"
forget
record 60 hf-cold light "" "${workload[@]}"
CUDA_MODULE_LOADING=EAGER record 60 hf-eager light "" "${workload[@]}"
record 75 hf-deep deep "" "${workload[@]}" --requests 2
record 45 copies light "" python3 tools/gpu/copy_workload.py
step "the copies' dma"
limit 30 python3 -m slmtrace report "$work/copies" --window load
nvidia-smi --query-gpu=pcie.link.gen.max,pcie.link.width.max --format=csv
step "cold and eager beside warm"
limit 30 python3 tools/gpu/causes.py "$work/hf-warm" "$work/hf-cold" "$work/hf-eager" "$work/hf-deep"

pack hf-warm hf-cold hf-eager hf-deep copies
