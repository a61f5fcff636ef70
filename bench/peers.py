#!/usr/bin/env python3
"""Quantizes a model with another program, for the table of peers in docs/accuracy.md.

peers.py gptqmodel|autoround|llmcompressor --model DIR --dataset FILE.jsonl --out DIR [--scheme W4A16] ...

Each needs an environment of its own with torch and the program. Samples are the first --seqlen tokens of the first
--nsamples texts (`inputs_pretokenized`) of at least that length, as `laos quant --dataset` takes them. --format is
AutoRound's name of what it writes.
"""
import argparse
import json
import time

import torch
import transformers


def samples_of(options):
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    samples = []
    for line in open(options.dataset, encoding="utf-8"):
        ids = tokenizer(json.loads(line)["inputs_pretokenized"])["input_ids"][: options.seqlen]
        if len(ids) == options.seqlen and len(samples) < options.nsamples:
            samples.append(ids)
    return samples


def windows_of(options):
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer(open(options.text, encoding="utf-8").read())["input_ids"]
    windows = [ids[begin : begin + options.seqlen] for begin in range(0, len(ids) - options.seqlen + 1, options.seqlen)]
    return windows[: options.max_tokens // (options.seqlen - 1)]


@torch.no_grad()
def log_probabilities(model, window):
    return torch.log_softmax(model(torch.tensor([window])).logits[0, :-1].float(), dim=-1)


def judge(options, model, windows, truths):
    """Prints perplexity and KL from `truths`, log-probabilities of each window: float16 [seqlen - 1, vocabulary]."""
    losses, divergences = [], []
    for window, truth in zip(windows, truths):
        got, truth = log_probabilities(model, window), truth.float()
        losses.append(-got.gather(1, torch.tensor(window[1:])[:, None]).mean())
        divergences.append((truth.exp() * (truth - got)).sum(-1).mean())
    kl = torch.stack(divergences)
    print(f"{len(windows)} windows: perplexity {torch.stack(losses).mean().exp():.4f}, "
          f"KL {kl.mean():.4f} +- {kl.std() / len(kl) ** 0.5:.4f}")


def gptqmodel(options, samples):
    import gptqmodel as package
    from gptqmodel import GPTQModel, QuantizeConfig

    # On two cores 7.7.0 asks for two threads of a pool of one.
    workers = package._default_cpu_workers()
    package._default_cpu_workers = lambda: max(2, workers)
    config = QuantizeConfig(bits=4, group_size=options.group_size, sym=True, desc_act=options.desc_act)
    model = GPTQModel.load(options.model, config)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples], batch_size=1)
    model.save(options.out)


def autoround(options, samples):
    from auto_round import AutoRound

    data = [{"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            for ids in samples]
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    common = {"dataset": data, "nsamples": len(samples), "seqlen": options.seqlen, "iters": options.iters,
              "device_map": "cpu"}
    if options.scheme == "published":
        windows = windows_of(options)
        float_model = transformers.AutoModelForCausalLM.from_pretrained(options.float or options.model, dtype="bfloat16")
        truths = [log_probabilities(float_model, window).half() for window in windows]
        layers = range(options.keep, float_model.config.num_hidden_layers - options.keep)
        del float_model
        low = {f"model.layers.{layer}.mlp.{name}_proj": {"bits": 4, "act_bits": 4} for layer in layers
               for name in ("gate", "up")}
        model, _ = AutoRound(options.model, tokenizer, scheme="INT8", layer_config=low, **common).quantize()
        judge(options, model, windows, truths)
        return
    rounder = AutoRound(options.model, tokenizer, scheme=options.scheme, group_size=options.group_size, **common)
    rounder.quantize_and_save(options.out, format=options.format)


def llmcompressor(options, samples):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    bits, inputs = (4, None) if options.scheme == "W4A16" else (8, None)
    if options.scheme == "W8A8":
        inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    if options.scheme == "W8A8-static":
        inputs = QuantizationArgs(num_bits=8, strategy="tensor", dynamic=False)
    group = {"strategy": "group", "group_size": options.group_size} if bits == 4 else {"strategy": "channel"}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(num_bits=bits, **group),
                                input_activations=inputs)
    order = {"actorder": options.actorder} if options.actorder else {}
    if options.rtn:
        modifier = QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    else:
        modifier = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"], **order)
    data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples])
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype="auto")
    oneshot(model=model, tokenizer=options.model, dataset=data, recipe=modifier, max_seq_length=options.seqlen,
            num_calibration_samples=len(samples), shuffle_calibration_samples=False)
    model.save_pretrained(options.out, save_compressed=True)
    transformers.AutoTokenizer.from_pretrained(options.model).save_pretrained(options.out)


PEERS = {"gptqmodel": gptqmodel, "autoround": autoround, "llmcompressor": llmcompressor}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scheme", default="W4A16", choices=["W4A16", "W8A8", "W8A8-static", "published"])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--nsamples", type=int, default=48)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--iters", type=int, default=200, help="of AutoRound")
    parser.add_argument("--format", default="auto_round", help="of AutoRound")
    parser.add_argument("--desc-act", action="store_true", help="of GPTQModel")
    parser.add_argument("--actorder", default="", help="of llmcompressor: static, weight, group")
    parser.add_argument("--rtn", action="store_true", help="of llmcompressor: round to nearest instead of GPTQ")
    parser.add_argument("--text", help="to judge `published` on")
    parser.add_argument("--max-tokens", type=int, default=4080, help="predicted of --text")
    parser.add_argument("--float", default="", help="directory of the model that KL is from (default: --model)")
    parser.add_argument("--keep", type=int, default=0, help="layers at each end that `published` keeps at 8 bits")
    options = parser.parse_args()
    samples = samples_of(options)
    begin = time.time()
    PEERS[options.peer](options, samples)
    print(f"{options.peer}: {len(samples)} samples, {time.time() - begin:.1f} s of quantizing and saving")


if __name__ == "__main__":
    main()
