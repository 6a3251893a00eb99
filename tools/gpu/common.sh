# Sourced by the scripts beside it, in the root of a checkout: $out for logs and small captures, $work for whole ones.
# SLMTRACE_GPU_SETUP names a script to source first (packages of a machine without a network).
out=${OUT:-/tmp/slmtrace-gpu}; mkdir -p "$out"
work=$(mktemp -d)
setup=${SLMTRACE_GPU_SETUP:-.gpu/unpack.sh}
# The set-up script is not ours, and may refer to unset variables. Its first argument is not ours either.
loader_path=${LD_LIBRARY_PATH:-}
if [ -f "$setup" ]; then set +u; . "$setup" "$(dirname "$setup")"; set -u; fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# The collector runs `python3 -I`, which ignores PYTHONPATH: a bcc that was unpacked beside the system is linked into the
# interpreter's own packages, and those of its libraries that the system lacks into /usr/local/lib, so that nothing else
# runs with a changed LD_LIBRARY_PATH.
link_bcc() { # ROOT
  [ -d "$1/usr" ] || return 0
  local library
  ln -sfn "$1/usr/lib/python3/dist-packages/bcc" "$(python3 -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bcc"
  for library in "$1"/usr/lib/x86_64-linux-gnu/lib*.so* "$1"/lib/x86_64-linux-gnu/lib*.so*; do
    if [ -e "$library" ] && ! ldconfig -p | grep -qF "$(basename "$library") "; then ln -sf "$library" /usr/local/lib/; fi
  done
  ldconfig
  python3 -I -W ignore -c 'import bcc; print("bcc", bcc.__file__)'
}
link_bcc "${SLMTRACE_GPU_BCC:-/opt/bcc}"
if [ -n "$loader_path" ]; then export LD_LIBRARY_PATH=$loader_path; else unset LD_LIBRARY_PATH; fi

step() { echo; echo "=== $* ($(date +%T))"; }

limit() { timeout --kill-after=10 "$@" || echo "!!! exit $?: ${*:2}"; }

make_model() { # DIR: a 1.5B model with random weights, once
  [ -f "$1/config.json" ] && return
  step "make $1"
  limit 180 python3 "${SLMTRACE_GPU_MODEL_SCRIPT:-.gpu/make_model.py}" "$1"
}

record() { # SECONDS NAME TIER PROBES COMMAND...: one recording, its breakdown and its contents; PROBES may be empty
  local seconds=$1 name=$2 options=(-o "$work/$2")
  if [ "$3" = calls ]; then options+=(--no-gpu-kernels); else options+=(--tier "$3"); fi
  [ -n "$4" ] && options+=(--probes "$4")
  shift 4
  step "record $name"
  limit "$seconds" python3 -m slmtrace record "${options[@]}" -- "$@"
  step "inspect $name"
  limit 90 python3 tools/gpu/inspect_capture.py "$work/$name"
}

pack() { # NAME...: the captures, small enough to bring back
  step pack
  local name
  for name in "$@"; do
    [ -d "$work/$name" ] || continue
    du -sh "$work/$name" "$work/$name"/raw/* | sort -h | tail -4
    tar -C "$work" -I "xz -T0 -4" -cf "$out/$name.tar.xz" --exclude=trace.pftrace "$name"
    # Too large to bring back: what CUDA and the ranges say is enough for a fixture.
    if [ "$(stat -c %s "$out/$name.tar.xz")" -gt $((15 << 20)) ]; then
      tar -C "$work" -I "xz -T0 -4" -cf "$out/$name.tar.xz" --exclude=trace.pftrace --exclude='ebpf*.bin' "$name"
    fi
  done
  ls -l "$out"
}
