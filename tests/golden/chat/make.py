#!/usr/bin/env python3
"""Writes goldens.jsonl: what Jinja makes of conversations with each of the templates beside this file.

Needs the package jinja2. The environment is that of transformers' apply_chat_template.
"""
import json
import pathlib

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
TOKENS = {  # bos_token, eos_token
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "qwen2.5": (None, "<|im_end|>"),
    "chatml": ("<s>", "</s>"),
    "qwen3": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.2": ("<|begin_of_text|>", "<|eot_id|>"),
}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CONVERSATIONS = [
    turns(("user", "Hi")),
    turns(("system", "Be brief."), ("user", " Hi \n")),
    turns(("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?")),
    turns(("system", " Count. "), ("user", "a"), ("assistant", "b "), ("user", "c"), ("assistant", " d")),
    turns(("user", "你好,世界"), ("assistant", "<think>\nhm\n</think>\n\nGrüße!")),
    turns(("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c"), ("assistant", "<think>y</think>d")),
    turns(("user", "weather?"), ("assistant", "I look."), ("tool", ' {"c": "20°"} '), ("tool", "wind\n"),
          ("assistant", "20 degrees")),
    turns(("user", "weather?"), ("assistant", "I look."), ("tool", "20")),
    turns(("user", "a"), ("user", "b")),
    turns(("assistant", "a"), ("user", "b")),
]


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    with open(HERE / "goldens.jsonl", "w", encoding="utf-8") as out:
        for path in sorted(HERE.glob("*.jinja")):
            bos, eos = TOKENS.get(path.stem, ("<s>", "</s>"))
            # Files end with a line's end, templates do not.
            template = environment.from_string(path.read_text(encoding="utf-8").removesuffix("\n"))
            roles = {"system", "user", "assistant"} | ({"tool"} if "<|" in path.read_text() else set())
            roles -= {"tool"} if path.stem == "zephyr" else set()
            for messages in CONVERSATIONS:
                if not {m["role"] for m in messages} <= roles:
                    continue
                asks = messages[-1]["role"] in ("user", "tool")
                for thinking in ([True, False] if path.stem == "qwen3" and asks else [True]):
                    try:
                        text = template.render(messages=messages, bos_token=bos, eos_token=eos,
                                               add_generation_prompt=asks, enable_thinking=thinking)
                    except jinja2.exceptions.TemplateError:
                        text = None
                    line = {"template": path.stem, "bos_token": bos, "eos_token": eos, "messages": messages,
                            "asks": asks, "thinking": thinking, "text": text}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
