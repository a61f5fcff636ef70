#!/usr/bin/env python3
"""Small random checkpoints of every family and option that laos reads, and what transformers computes for them.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors && venv/bin/python make.py

Writes a directory for each case beside this file: config.json and model.safetensors (BF16) as transformers saves them,
and golden.safetensors: `ids` [n] and the `logits` [n, vocab_size] of the last 8 of them, computed in f32.
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

BASE = dict(vocab_size=48, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
QWEN = dict(head_dim=4, use_sliding_window=False)


def rope(**fields):
    return {"rope_parameters": {"rope_theta": 10000.0, **fields}}


CASES = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    "llama-llama3-rope": ("Llama", rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=16)),
    "llama-linear-rope": ("Llama", rope(rope_type="linear", factor=4.0)),
    "llama-dynamic-rope": ("Llama", {"max_position_embeddings": 16, **rope(rope_type="dynamic", factor=2.0)}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 10}),
    "mistral-long-window": ("Mistral", {"sliding_window": 40}),
    "qwen2": ("Qwen2", {"num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 28,
                        "use_sliding_window": False}),
    "qwen2-yarn": ("Qwen2", {"use_sliding_window": False,
                             **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)}),
    "qwen3-bias": ("Qwen3", {**QWEN, "attention_bias": True}),
    "qwen3-yarn": ("Qwen3", {**QWEN, **rope(rope_type="yarn", factor=2.0, original_max_position_embeddings=32,
                                            beta_fast=16.0, beta_slow=2.0, attention_factor=1.2)}),
    "seed-oss": ("SeedOss", {"head_dim": 8}),
    "seed-oss-biases": ("SeedOss", {"head_dim": 4, "attention_bias": False, "attention_out_bias": True,
                                    "mlp_bias": True}),
}
NUM_TOKENS = 40
NUM_LOGITS = 8


def main():
    here = pathlib.Path(__file__).parent
    for seed, (name, (family, fields)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(seed)
        config = getattr(transformers, family + "Config")(**{**BASE, **fields})
        config.dtype = "bfloat16"
        model = getattr(transformers, family + "ForCausalLM")(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                values = torch.randn(parameter.shape, generator=generator) * 0.3
                if "norm" in parameter_name:
                    values = 1 + values
                parameter.copy_(values.bfloat16().float())
        model = model.bfloat16()
        directory = here / name
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        config_json = json.loads((directory / "config.json").read_text())
        config_json.pop("transformers_version", None)
        (directory / "config.json").write_text(json.dumps(config_json, indent=2, sort_keys=True) + "\n")
        ids = torch.randint(0, 48, (NUM_TOKENS,), generator=generator)
        with torch.no_grad():
            # Read anew: what is not a parameter, as rope's frequencies, was rounded above.
            model = type(model).from_pretrained(directory, dtype=torch.float32)
            logits = model(ids[None]).logits[0, -NUM_LOGITS:].contiguous()
        save_file({"ids": ids.float(), "logits": logits}, directory / "golden.safetensors")
        print(name, float(logits.std()))


main()
