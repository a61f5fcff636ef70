#!/usr/bin/env python3
"""Makes the goldens beside it with the compressed-tensors package (made with 0.20.1, transformers 5.24.0).

packed.json: codes and the words that pack_to_int32 makes of them, for widths that fill words and that do not.
config.json: quantization_config as the package writes it for three groups of linears.
model/: a small random checkpoint with W8A8 in attention, W4A4 in gate and up and shifted static W8A8 in down, and
logits.safetensors: `ids` [n] and the `logits` [n, vocab_size] that transformers computes of them in f32.
"""
import json
import pathlib

import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
generator = torch.Generator().manual_seed(1)

packed = []
for bits in (4, 8):
    for rows, cols in ((2, 16), (3, 13)):
        codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, cols), generator=generator).to(torch.int8)
        codes[0, 0], codes[-1, -1] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        packed.append({"bits": bits, "codes": codes.tolist(), "words": pack_to_int32(codes, bits).tolist()})
(here / "packed.json").write_text(json.dumps(packed) + "\n")


def weights(bits, group_size=None):
    strategy = "channel" if group_size is None else "group"
    return QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group_size)


def inputs(bits):
    return QuantizationArgs(num_bits=bits, strategy="token", dynamic=True)


attention = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qkvo"]
mlp = [f"model.layers.{i}.mlp.{p}_proj" for i in range(2) for p in ("gate", "up")]
down = [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
config = QuantizationConfig(
    config_groups={
        "group_0": QuantizationScheme(
            targets=attention, weights=weights(8), input_activations=inputs(8), format="int-quantized"
        ),
        "group_1": QuantizationScheme(
            targets=mlp, weights=weights(4), input_activations=inputs(4), format="pack-quantized"
        ),
        "group_2": QuantizationScheme(targets=down, weights=weights(4, 8), format="pack-quantized"),
    },
    format="mixed-precision",
    quantization_status=QuantizationStatus.COMPRESSED,
    ignore=["lm_head"],
)
(here / "config.json").write_text(json.dumps(json.loads(config.model_dump_json()), indent=1) + "\n")

sizes = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, dtype="bfloat16")
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
tensors = {}
for name, parameter in model.state_dict().items():
    base, shape = name.removesuffix(".weight"), parameter.shape
    values = torch.randn(shape, generator=generator)
    # The largest input of every linear is positive: the package puts one that is negative into the middle of two codes,
    # where the last bit of a sum decides.
    if "norm" in name:
        values[0] = 20
        tensors[name] = (1 + 0.2 * values).bfloat16()
    elif not base.endswith("_proj"):
        values[:, 0] = values[:, 0].abs() + 2
        tensors[name] = values.bfloat16()
    else:
        bits = 4 if base.endswith(("gate_proj", "up_proj")) else 8
        top = 2 ** (bits - 1) - 1
        scale = (2 ** (torch.rand(shape[0], 1, generator=generator) - 1) / top).bfloat16()
        codes = (values * top / 3).round().clamp(-top - 1, top).to(torch.int8)
        if base.endswith("v_proj"):
            codes[0, 0], scale[0] = top, 4 * scale[0]
        if base.endswith(("o_proj", "down_proj")):
            codes[0], scale = codes[0].clamp(min=-top).abs() * base.endswith("o_proj"), scale / 32
        tensors[base + ".weight_scale"] = scale
        if bits == 4:
            tensors[base + ".weight_packed"] = pack_to_int32(codes, bits)
            tensors[base + ".weight_shape"] = torch.tensor(shape)
        else:
            tensors[name] = codes
        if base.endswith("down_proj"):
            tensors[base + ".input_scale"] = torch.tensor([0.125]).bfloat16()
            tensors[base + ".input_zero_point"] = torch.tensor([-5], dtype=torch.int8)
static = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=False, dynamic=False)
config.config_groups["group_2"] = QuantizationScheme(
    targets=down, weights=weights(8), input_activations=static, format="int-quantized"
)
directory = here / "model"
directory.mkdir(exist_ok=True)
save_file(tensors, directory / "model.safetensors", {"format": "pt"})
described = json.loads(model.config.to_json_string())
described["architectures"] = ["LlamaForCausalLM"]
described["quantization_config"] = json.loads(config.model_dump_json())
(directory / "config.json").write_text(json.dumps(described, indent=1) + "\n")


def check_peaks(rows):
    assert (rows.amax(-1) > -1.01 * rows.amin(-1)).all()


ids = torch.randint(0, sizes["vocab_size"], (24,), generator=generator)
model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
for name, module in model.named_modules():
    if name.endswith("_proj") and not name.endswith("down_proj"):
        module.register_forward_pre_hook(lambda _, inputs: check_peaks(inputs[0]))
with torch.no_grad():
    logits = model(ids[None], use_cache=False).logits[0]
save_file({"ids": ids.float(), "logits": logits.contiguous()}, here / "logits.safetensors")
