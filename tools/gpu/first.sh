#!/usr/bin/env bash
# Records the transformers workload on a machine with a GPU, calls alone, light and deep, and prints what the captures
# hold beside torch.profiler's own totals.
# Usage: tools/gpu/first.sh [MODEL]        Without MODEL, a 1.5B model with random weights is made in /tmp/model.
set -uo pipefail
. tools/gpu/common.sh
exec > >(tee "$out/first.log") 2>&1
model=${1:-/tmp/model}
workload=(python3 tools/gpu/hf_workload.py "$model")

step machine
nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current,clocks.sm --format=csv
uname -r; nproc; gcc --version | head -1; id -un; df -h /tmp | tail -1
python3 tools/gpu/environment.py

step doctor
limit 120 python3 -m slmtrace doctor
make_model "$model"

step "without recording"
limit 90 "${workload[@]}"
record 150 light-cuda light ranges,cuda "${workload[@]}"
record 150 calls-cuda calls ranges,cuda "${workload[@]}"
record 150 light-all light "" "${workload[@]}"
record 150 deep-cuda deep ranges,cuda "${workload[@]}"
step "torch.profiler"
limit 90 "${workload[@]}" --profile

pack light-cuda calls-cuda light-all deep-cuda
[ -f "$work/light-cuda/trace.pftrace" ] && gzip -c "$work/light-cuda/trace.pftrace" > "$out/light-cuda.pftrace.gz"
