#!/usr/bin/env python3
"""Holds quantized checkpoints, of laos or of other programs, against transformers.

check-compressed-tensors.py [--laos PROGRAM] [--text FILE] [--windows N] [--no-engines] [--noise RUNS] DIR...

Needs torch, transformers and compressed-tensors (for GPTQ and AutoRound's format also GPTQModel or auto-round). Each
DIR must load without a warning. Its perplexity in float32, with transformers as it is, must be that of
`laos eval --emulate transformers` within 0.3 %. Then the package is given the steps that engines have, max|x| / 127 or
/ 7 for max|x| / 127.5 or / 7.5, and held against plain `laos eval` (not with --no-engines).

What stands after ± is the standard error of the mean over windows: where inputs are rounded, sums that differ in their
last bits round differently now and then, and what follows from there differs too. A mean beyond the bar but within
four errors fails nothing: more windows tell. --noise runs transformers again with embeddings that are off by 1e-7, about
what a rounding in float32 is, and says how far that alone moves it: no other program can be closer than that.
"""
import argparse
import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from compressed_tensors.quantization.utils import helpers
from loguru import logger as loguru_logger

WINDOW = 512
BAR = 3e-3
ERRORS = 4
package_qparams = helpers.calculate_qparams


def engine_qparams(min_vals, max_vals, args, *rest, **more):
    if not args.symmetric:
        return package_qparams(min_vals, max_vals, args, *rest, **more)
    peak = torch.max(min_vals.abs(), max_vals.abs())
    scale = torch.where(peak == 0, torch.ones_like(peak), peak / (2 ** (args.num_bits - 1) - 1))
    return scale, torch.zeros_like(scale)


@contextlib.contextmanager
def engine_steps():
    helpers.calculate_qparams = engine_qparams
    yield
    helpers.calculate_qparams = package_qparams


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
def theirs(model, windows):
    """The negative log-likelihood of each window."""
    sums = []
    for ids in windows:
        window = torch.tensor([ids])
        logits = model(window, use_cache=False).logits[0, :-1].double()
        sums.append(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item())
    return sums


def with_noise(model, windows, seed):
    generator = torch.Generator().manual_seed(seed)

    def add(_module, _inputs, output):
        return output * (1 + 1e-7 * torch.randn(output.shape, generator=generator))

    hook = model.get_input_embeddings().register_forward_hook(add)
    sums = theirs(model, windows)
    hook.remove()
    return sums


def ours(laos, directory, windows, more):
    sums = []
    with tempfile.TemporaryDirectory() as temp:
        text = os.path.join(temp, "window.jsonl")
        for ids in windows:
            with open(text, "w", encoding="utf-8") as file:
                file.write(json.dumps({"ids": ids}) + "\n")
            command = [laos, "eval", "--model-path", directory, "--text", text, "--json", "--seq-len", str(len(ids))]
            result = json.loads(subprocess.run(command + more, check=True, capture_output=True, text=True).stdout)
            sums.append(result["nll"] * result["tokens"])
    return sums


def compare(name, their_sums, our_sums, tokens, what="laos"):
    """Prints both perplexities; whether the second is within the bar of the first, or within ERRORS errors."""
    count = len(their_sums)
    differences = [(b - a) / tokens for a, b in zip(their_sums, our_sums)]
    mean = sum(differences) / count
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count * max(1, count - 1)))
    their_mean, our_mean = sum(their_sums) / count / tokens, sum(our_sums) / count / tokens
    is_within, is_noise = abs(math.expm1(mean)) < BAR, abs(mean) < ERRORS * error
    verdict = "" if is_within else f": beyond the bar, within {ERRORS} errors" if is_noise else ": FAILED"
    print(f"  {name}: transformers {math.exp(their_mean):.4f}, {what} {math.exp(our_mean):.4f}, "
          f"{100 * math.expm1(mean):+.3f} ± {100 * error:.3f} % in {count} windows{verdict}", flush=True)
    return is_within or is_noise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laos", default="build/release/laos")
    parser.add_argument("--text", default="models/qwen3-tiny-eval.txt")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--no-engines", action="store_true")
    parser.add_argument("--noise", type=int, default=0, metavar="RUNS")
    parser.add_argument("directories", nargs="+")
    options = parser.parse_args()
    text = open(options.text, encoding="utf-8").read()
    failed = False
    for directory in options.directories:
        model, tokenizer, complaints = load(directory)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        windows = [ids[begin : begin + WINDOW] for begin in range(0, len(ids) - WINDOW + 1, WINDOW)][: options.windows]
        print(f"{directory}:", flush=True)
        for complaint in complaints:
            print(f"  warned: {complaint}")
        emulated = ours(options.laos, directory, windows, ["--emulate", "transformers"])
        sums = theirs(model, windows)
        fits = compare("as it is", sums, emulated, WINDOW - 1) and not complaints
        if not options.no_engines:
            with engine_steps():
                stepped = theirs(model, windows)
            fits = compare("steps of engines", stepped, ours(options.laos, directory, windows, []), WINDOW - 1) and fits
        for seed in range(options.noise):
            compare("noise", sums, with_noise(model, windows, seed), WINDOW - 1, f"with noise {seed}")
        failed = failed or not fits
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
