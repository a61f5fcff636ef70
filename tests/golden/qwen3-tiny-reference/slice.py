"""Cuts the first layer and the first 256 tokens out of a checkpoint of the known implementation, and computes what they
give: python3 slice.py REFERENCE/laos OUT. Needs numpy alone; every step in float64 but for the codes of the inputs,
whose steps engines hold in float32."""

import json
import struct
import sys
from pathlib import Path

import numpy as np

VOCAB, LAYERS = 256, 1
source, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)


def read(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return {
        name: (entry["dtype"], entry["shape"], data[8 + size :][slice(*entry["data_offsets"])])
        for name, entry in json.loads(data[8 : 8 + size]).items()
        if name != "__metadata__"
    }


def kept(name):
    return "layers." not in name or int(name.split(".")[2]) < LAYERS


tensors = {n: t for n, t in read(next(source.glob("*.safetensors"))).items() if kept(n)}
for name in ("model.embed_tokens.weight", "lm_head.weight"):
    dtype, (rows, cols), data = tensors[name]
    tensors[name] = (dtype, [VOCAB, cols], data[: VOCAB * cols * 2])

header, at = {}, 0
for name, (dtype, shape, data) in sorted(tensors.items()):
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
file = "quant_model_weights-00001-of-00001.safetensors"
(out / file).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for _, t in sorted(tensors.items())))
index = {"metadata": {"total_size": at}, "weight_map": dict.fromkeys(sorted(tensors), file)}
(out / "quant_model_weights.safetensors.index.json").write_text(json.dumps(index, indent=1))
description = json.loads((source / "quant_model_description.json").read_text())
description = {k: v for k, v in description.items() if kept(k)}
(out / "quant_model_description.json").write_text(json.dumps(description, indent=1))
config = json.loads((source / "config.json").read_text())
config |= {"num_hidden_layers": LAYERS, "vocab_size": VOCAB}
del config["bos_token_id"], config["eos_token_id"]
(out / "config.json").write_text(json.dumps(config, indent=1))


def value(name):
    dtype, shape, data = tensors[name]
    if dtype == "BF16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        array = np.frombuffer(data, {"I8": "i1", "F32": "<f4"}[dtype])
    return array.reshape(shape).astype(np.float64)


def linear(x, name):
    most = {"W4A4_DYNAMIC": 7, "W8A8_DYNAMIC": 127}[description[name + ".weight"]]
    x = x.astype(np.float32)
    step = np.abs(x).max(axis=1, keepdims=True) / np.float32(most)
    codes = np.rint(x / step).astype(np.float64)
    return codes @ value(name + ".weight").T * step.astype(np.float64) * value(name + ".weight_scale").T


def norm(x, name):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * value(name)


def rope(x, size):
    angle = np.arange(len(x))[:, None] / config["rope_theta"] ** (np.arange(0, size, 2) / size)[None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def log_probabilities(ids):
    heads, kv_heads, size = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    x = value("model.embed_tokens.weight")[ids]
    n = len(ids)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        h = norm(x, p + "input_layernorm.weight")
        q = linear(h, p + "self_attn.q_proj").reshape(n, heads, size)
        k = linear(h, p + "self_attn.k_proj").reshape(n, kv_heads, size)
        v = linear(h, p + "self_attn.v_proj").reshape(n, kv_heads, size)
        q = rope(norm(q, p + "self_attn.q_norm.weight"), size)
        k = rope(norm(k, p + "self_attn.k_norm.weight"), size)
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size)
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", weights, v).reshape(n, -1), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm.weight")
        gate, up = linear(h, p + "mlp.gate_proj"), linear(h, p + "mlp.up_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
    logits = norm(x, "model.norm.weight") @ value("lm_head.weight").T
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


lines = []
for sequence in range(4):
    ids = [(i * (2 * sequence + 7) * 31 + i * i) % VOCAB for i in range(64)]
    of_next = log_probabilities(ids)[np.arange(63), ids[1:]]
    lines.append(json.dumps({"input_ids": ids, "logprobs": [round(float(p), 6) for p in of_next]}))
(out / "goldens.jsonl").write_text("\n".join(lines) + "\n")
