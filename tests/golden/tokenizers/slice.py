#!/usr/bin/env python3
"""Cuts a byte-level BPE tokenizer down to what some texts need of it.

    python3 slice.py TOKENIZER.json GOLDEN.jsonl FOLDER     # needs the package tokenizers

The lines of GOLDEN have text, ids and decoded as the whole tokenizer gives them. Merges that none
of the texts makes can be left out without a change of their ids, which is checked here.
"""
import json
import os
import re
import sys

from tokenizers import Tokenizer

source, golden, folder = sys.argv[1:]
whole = Tokenizer.from_file(source)
with open(source, encoding="utf-8") as file:
    state = json.load(file)
with open(golden, encoding="utf-8") as file:
    lines = [json.loads(line) for line in file]
model, added = state["model"], {token["content"]: token["id"] for token in state["added_tokens"]}
rank = {tuple(merge): i for i, merge in enumerate(model["merges"])}
at_added = re.compile("|".join(re.escape(name) for name in sorted(added, key=len, reverse=True)))

used = set()
for text in (part for line in lines for part in at_added.split(line["text"])):
    for piece, _ in whole.pre_tokenizer.pre_tokenize_str(whole.normalizer.normalize_str(text)):
        tokens = list(piece)
        while pairs := [pair for pair in zip(tokens, tokens[1:]) if pair in rank]:
            pair = min(pairs, key=rank.get)
            used.add(rank[pair])
            merged, i = [], 0
            while i < len(tokens):
                both = tuple(tokens[i:i + 2]) == pair
                merged.append("".join(pair) if both else tokens[i])
                i += 2 if both else 1
            tokens = merged

model["merges"] = [model["merges"][i] for i in sorted(used)]
kept = {"".join(merge) for merge in model["merges"]}
# The library keeps the ids of added tokens only where the vocabulary has them.
model["vocab"] = {token: i for token, i in model["vocab"].items() if token in kept or len(token) == 1} | added
os.makedirs(folder, exist_ok=True)


def dump(value, file):
    json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
    file.write("\n")


with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as out:
    dump(state, out)
part = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
with open(os.path.join(folder, "golden.jsonl"), "w", encoding="utf-8") as out:
    for line in lines:
        assert part.encode(line["text"], add_special_tokens=False).ids == line["ids"], line
        assert part.decode(line["ids"], skip_special_tokens=False) == line["decoded"], line
        dump({"text": line["text"], "ids": line["ids"], "sample": part.encode(line["text"]).ids,
              "decoded": line["decoded"]}, out)
