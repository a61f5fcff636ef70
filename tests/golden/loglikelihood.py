"""Writes loglikelihood.jsonl: log-probabilities of continuations by transformers, in f32, of a model.

    python3 tests/golden/loglikelihood.py [MODEL [REQUESTS]] > tests/golden/loglikelihood.jsonl

MODEL is the bundled one by default. REQUESTS are lines {"context", "continuation"}; by default those below.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

REQUESTS = [("In the beginning", " God"), ("In the beginning God created the heaven and the", " earth"),
            ("And it came to", " pass"), ("And it came to ", "nothing at all"), ("", "The LORD is my shepherd"),
            ("Thou shalt not", " steal any sheep of thy neighbour."), ("beg", "inning"), ("Caf\u00e9", " \u4e2d\u6587 x")]

path = sys.argv[1] if len(sys.argv) > 1 else "models/qwen3-tiny"
if len(sys.argv) > 2:
    lines = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
    REQUESTS = [(line["context"], line["continuation"]) for line in lines]
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
for context, continuation in REQUESTS:
    before = tokenizer(context.rstrip())["input_ids"]
    ids = tokenizer(context + continuation)["input_ids"]
    count = min(len(before), len(ids) - 1)
    if not before:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids, count = [first] + ids, 1
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    scored = [(logits[i - 1, ids[i]].item(), logits[i - 1].argmax().item() == ids[i]) for i in range(count, len(ids))]
    print(json.dumps({"context": context, "continuation": continuation,
                      "logprob": sum(value for value, _ in scored), "greedy": all(hit for _, hit in scored)}))
