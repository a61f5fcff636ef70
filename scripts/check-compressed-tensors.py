#!/usr/bin/env python3
"""Holds compressed-tensors checkpoints that laos wrote against transformers.

check-compressed-tensors.py [--laos PROGRAM] [--text FILE] [--windows N] DIR...

Needs torch, transformers and compressed-tensors. Each DIR must load without a warning, and its perplexity in float32
must be that of `laos eval` when inputs get the steps that engines give them, max|x| / 127 or / 7. The package itself
takes max|x| / 127.5 or / 7.5, with -128 and -8 in reach; the perplexity of that is printed too.
"""
import argparse
import json
import logging
import math
import subprocess
import sys
import warnings

import torch
import transformers
from compressed_tensors.quantization.utils import helpers
from loguru import logger as loguru_logger

WINDOW = 512
# By the fewest bits of an input: rounded inputs differ by a step where sums differ in their last bits, and what follows
# from there differs too.
TOLERANCE = {16: 1e-5, 8: 2e-3, 4: 1e-2}
package_qparams = helpers.calculate_qparams


def engine_qparams(min_vals, max_vals, args, global_scale=None):
    if not args.symmetric:
        return package_qparams(min_vals, max_vals, args, global_scale=global_scale)
    peak = torch.max(min_vals.abs(), max_vals.abs())
    scale = torch.where(peak == 0, torch.ones_like(peak), peak / (2 ** (args.num_bits - 1) - 1))
    return scale, torch.zeros_like(scale)


class Complaints(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def load(directory):
    complaints = Complaints()
    transformers.utils.logging.get_logger("transformers").addHandler(complaints)
    logging.getLogger().addHandler(complaints)
    sink = loguru_logger.add(lambda message: complaints.texts.append(str(message)), level="WARNING")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    loguru_logger.remove(sink)
    texts = complaints.texts + [f"{w.category.__name__}: {w.message}" for w in caught]
    return model.eval(), tokenizer, texts


@torch.no_grad()
def perplexity(model, ids):
    total, count = 0.0, 0
    for begin in range(0, len(ids), WINDOW):
        window = torch.tensor([ids[begin : begin + WINDOW]])
        logits = model(window, use_cache=False).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += window.shape[1] - 1
    return math.exp(total / count)


def input_bits(model):
    schemes = [getattr(module, "quantization_scheme", None) for module in model.modules()]
    inputs = [scheme.input_activations for scheme in schemes if scheme is not None]
    return min((args.num_bits for args in inputs if args is not None), default=16)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--laos", default="build/release/laos")
    parser.add_argument("--text", default="models/qwen3-tiny-eval.txt")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("directories", nargs="+")
    options = parser.parse_args()
    text = open(options.text, encoding="utf-8").read()
    failed = False
    for directory in options.directories:
        model, tokenizer, complaints = load(directory)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][: WINDOW * options.windows]
        helpers.calculate_qparams = engine_qparams
        engine = perplexity(model, ids)
        helpers.calculate_qparams = package_qparams
        package = perplexity(model, ids)
        command = [options.laos, "eval", "--model-path", directory, "--text", options.text, "--json"]
        command += ["--seq-len", str(WINDOW), "--max-tokens", str((WINDOW - 1) * options.windows)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ours = result["models"][0]["perplexity"] if "models" in result else result["perplexity"]
        fits = abs(engine / ours - 1) < TOLERANCE[input_bits(model)] and not complaints
        failed = failed or not fits
        print(f"{directory}: laos {ours:.5f}, transformers {engine:.5f} with the steps of engines, "
              f"{package:.5f} with the package's: {'ok' if fits else 'FAILED'}")
        for complaint in complaints:
            print(f"  warned: {complaint}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
