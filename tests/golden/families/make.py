#!/usr/bin/env python3
"""Small random checkpoints of every family and option that laos reads, and what transformers computes for them.

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors && venv/bin/python make.py

Writes a directory for each case, or for those named on the command line, beside this file: config.json and
model.safetensors (BF16) as transformers saves them (5; those named "old-" spelled as 4 did), and golden.safetensors:
`ids` [n] and the `logits` [n, vocab_size] of the last 8 of them, computed in f32. Experts are on disk one by one, in
those named "-fused" as transformers 5 has them in memory.
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

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
    "qwen2-tied-yarn": ("Qwen2", {"use_sliding_window": False, "tie_word_embeddings": True, "hidden_size": 32,
                                  "num_attention_heads": 2, "num_key_value_heads": 1,
                                  **rope(rope_type="yarn", rope_theta=100.0, factor=4.0, mscale=0.9,
                                         mscale_all_dim=0.4, truncate=False, original_max_position_embeddings=16)}),
    "old-llama-llama3-rope": ("Llama", rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                            original_max_position_embeddings=16)),
    "old-llama-linear-rope": ("Llama", rope(rope_type="linear", factor=4.0)),
    "old-llama-dynamic-rope": ("Llama", {"max_position_embeddings": 16, **rope(rope_type="dynamic", factor=2.0)}),
    "old-qwen2-yarn": ("Qwen2", {"use_sliding_window": False,
                                 **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)}),
    "old-mistral": ("Mistral", {"sliding_window": None, **rope(rope_type="default")}),
    "qwen3-moe": ("Qwen3Moe", {**QWEN, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                               "norm_topk_prob": True}),
    "qwen3-moe-many": ("Qwen3Moe", {**QWEN, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 8,
                                    "hidden_size": 16, "num_hidden_layers": 1, "norm_topk_prob": True}),
    "qwen3-moe-some-layers": ("Qwen3Moe", {**QWEN, "num_experts": 4, "num_experts_per_tok": 3, "num_hidden_layers": 3,
                                           "moe_intermediate_size": 16, "mlp_only_layers": [1]}),
    "qwen3-moe-fused": ("Qwen3Moe", {**QWEN, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "qwen2-moe": ("Qwen2Moe", {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                               "shared_expert_intermediate_size": 32, "decoder_sparse_step": 2,
                               "use_sliding_window": False}),
}
NUM_TOKENS = 40
NUM_LOGITS = 8


def as_transformers_4(config):
    """config.json as transformers 4 spelled it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type" if kind == "linear" else "rope_type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")


def fuse_experts(file):
    """Experts' weights in one tensor a layer."""
    tensors = load_file(file)
    experts = sorted((int(name.split(".")[5]), name) for name in tensors if ".experts." in name)
    stacked = {}
    for kinds in (["gate_proj", "up_proj"], ["down_proj"]):
        for _, name in experts:
            if name.endswith(kinds[0] + ".weight"):
                parts = [tensors.pop(name.replace(kinds[0], kind)) for kind in kinds]
                layer = name[:name.index(".experts.")]
                fused = "gate_up_proj" if len(kinds) > 1 else kinds[0]
                stacked.setdefault(f"{layer}.experts.{fused}", []).append(torch.cat(parts))
    save_file({**tensors, **{name: torch.stack(parts) for name, parts in stacked.items()}}, file, {"format": "pt"})


def main():
    here = pathlib.Path(__file__).parent
    for seed, (name, (family, fields)) in enumerate(CASES.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
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
        if name.startswith("old-"):
            as_transformers_4(config_json)
        (directory / "config.json").write_text(json.dumps(config_json, indent=2, sort_keys=True) + "\n")
        ids = torch.randint(0, 48, (NUM_TOKENS,), generator=generator)
        with torch.no_grad():
            # Read anew: what is not a parameter, as rope's frequencies, was rounded above.
            model = type(model).from_pretrained(directory, dtype=torch.float32)
            logits = model(ids[None]).logits[0, -NUM_LOGITS:].contiguous()
        save_file({"ids": ids.float(), "logits": logits}, directory / "golden.safetensors")
        if name.endswith("-fused"):
            fuse_experts(directory / "model.safetensors")
        print(name, float(logits.std()))


main()
