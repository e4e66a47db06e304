#!/usr/bin/env bash
# Measures training steps, captions and CapFilt on one GPU, beside PyTorch; prints Markdown tables.
#
#   tests/bench/gpu.sh [PART ...]        parts: vit_b, vit_l, captions, capfilt; none: all of them
#   tests/bench/gpu.sh --rehearse        all parts at tiny sizes, on a CPU: some minutes
#
# No network is used. Needs JAX with CUDA, what setup.py lists, PyTorch and transformers. A call ends
# within MINUTES: rows that no time is left for are named; give single parts to measure these.
#
#   PACKAGES=DIR   Python packages beside the installed ones, such as grain and tensorflow-datasets
#   ORIGINAL=DIR   checkout of salesforce/BLIP: the peer of the steps; it needs timm
#   OUT=DIR        where JSON of the rows goes
#   PYTHON, MINUTES (7.5)
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-python3}"
MINUTES="${MINUTES:-7.5}"
ORIGINAL="${ORIGINAL:-}"
OUT="${OUT:-}"
export PYTHONPATH="$HERE/../..${PACKAGES:+:$PACKAGES}${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
START="$SECONDS"

if [[ "${1:-}" == --help ]]; then  # prints the comment above
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit
fi

args=(--minutes "$MINUTES" --device cuda)
capfilt=(--gpu --images 256 --batch 64 --rounds 1)
parts=("$@")
if [[ "${1:-}" == --rehearse ]]; then
  parts=("${@:2}")
  # On a CPU compiling takes most of the time.
  export JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1
  args=(--minutes "$MINUTES" --device cpu --rehearse --turns 1)
  capfilt=(--images 8 --batch 4 --rounds 1 --model small --image-size 64)
fi
if [[ ${#parts[@]} -eq 0 ]]; then
  parts=(vit_b vit_l captions capfilt)
fi

own=()
for part in "${parts[@]}"; do
  if [[ "$part" != capfilt ]]; then
    own+=("$part")
  fi
done
if [[ ${#own[@]} -gt 0 ]]; then
  "$PYTHON" "$HERE/gpu.py" "${own[@]}" "${args[@]}" ${ORIGINAL:+--original "$ORIGINAL"} \
    ${OUT:+--out "$OUT/gpu.json"}
fi

if [[ " ${parts[*]} " == *" capfilt "* ]]; then
  left="$("$PYTHON" -c "print(int($MINUTES * 60 - $SECONDS + $START))")"
  if [[ "$left" -lt 60 ]]; then
    echo "capfilt: no time left"
  else
    # Both libraries are in one process there.
    XLA_PYTHON_CLIENT_MEM_FRACTION=0.5 timeout "$left" "$PYTHON" "$HERE/capfilt.py" \
      "${capfilt[@]}" | tee ${OUT:+"$OUT/capfilt.txt"}
  fi
fi
