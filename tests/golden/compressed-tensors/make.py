#!/usr/bin/env python3
"""Makes the goldens beside it with the compressed-tensors package (made with 0.20.1).

packed.json: codes and the words that pack_to_int32 makes of them, for widths that fill words and that do not.
config.json: quantization_config as the package writes it for three groups of linears.
"""
import json
import pathlib

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus

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
