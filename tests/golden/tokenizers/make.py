#!/usr/bin/env python3
"""Makes the tokenizers in this folder, and what the Hugging Face libraries give with them.

    python3 make.py [FOLDER]        # needs the packages tokenizers and transformers

Each is a small BPE trained on the sentences below, with the pipeline that the models of a family
have in their tokenizer.json. The values here were made with tokenizers 0.23.3, transformers 5.24.0.
"""
import json
import os
import random
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))

SENTENCES = [
    "The old lighthouse keeper counted 1234 ships that year, and wrote each of them down.",
    "She said: don't wait, we'll be there; they've gone and I'd better go. It's what we're for.",
    "def area(width, height):\n    return width * height  # in square metres\n\n",
    "for (int i = 0; i < 100; ++i) {\n\tsum += values[i] * 3.14159;\n}\r\n",
    "El viejo farero contaba los barcos cada mañana, y los anotaba en un cuaderno.",
    "Le gardien comptait les bateaux ; c'était l'été, où déjà il faisait très chaud.",
    "Der alte Wärter zählte die Schiffe, größer und größer wurde die Zahl: 56789.",
    "Старый смотритель считал корабли каждый день и записывал их в тетрадь.",
    "Ο γέρος φαροφύλακας μετρούσε τα πλοία κάθε πρωί.",
    "老灯塔看守人每天早上数船，然后把它们写在本子上。今天有三十艘船。",
    "年老いた灯台守は毎朝船を数えて、ノートに書きました。",
    "늙은 등대지기는 매일 아침 배를 세어 공책에 적었습니다.",
    "كان حارس المنارة العجوز يعد السفن كل صباح ويكتبها في دفتر.",
    "שומר המגדלור הזקן ספר את האוניות בכל בוקר.",
    "बूढ़ा प्रकाशस्तंभ रक्षक हर सुबह जहाज़ों को गिनता था।",
    "คนเฝ้าประภาคารนับเรือทุกเช้าและจดลงในสมุด",
    "Người gác hải đăng già đếm những con tàu mỗi buổi sáng.",
    "The ships, the ships, the ships; the morning, the morning and the evening of the year.",
]

PIECES = [
    "ship", " ship", "lighthouse", "THE", "don't", "DON'T", "we'LL", "l'été", "it\u2019s", "x'\u017fa",
    "0", "7", "42", "1234567", "3.14", "\u0663\u0664", "\u0967\u0968", "\u00bd", "\u2167", "\u00b2",
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u0085",
    "\u2028", "\u180e", "\u200b", "\u200d", "\ufeff", "\u0000", "\u007f",
    "!", "...", "--", "/", "\\", "<", ">", "|", "(a)", "{}", "&&", "'", "\"", "_", "#$%", "\u20ac",
    "\u00e9", "e\u0301", "a\u0323\u0302", "\u212b", "\u1e9b\u0323", "\ufb01", "\uac00", "\u1100\u1161",
    "\u4f60\u597d", "\u706f\u5854", "\u30c8", "\u0e19", "\u0915\u094d\u0937", "\u0634", "\u05e9", "\u0416",
    "\u03a9", "\u1f600", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7",
    "\u2581", "\u2581\u2581", "a\u2581b", "\u0120", "<0x41>", "<unk>", "\ufffd", "\U00031350", "\U00010d40",
    "\U0001d2c0", "\u0897", "\U0001fae9", "\u1c89", "\U00011de3", "\U0010ffff", "\u0378", "\ue000",
]

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(add_prefix_space=False, use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def special(content, **flags):
    return AddedToken(content, **{"normalized": False, "special": True, **flags})


def template(tokenizer, before=(), after=()):
    names = list(before) + list(after)
    return processors.TemplateProcessing(
        single=list(before) + ["$A"] + list(after),
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)])


def trained_on_bytes(pre_tokenizer, added, normalizer=None, ignore_merges=False):
    t = Tokenizer(BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(SENTENCES, BpeTrainer(
        vocab_size=520, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_tokens(added)
    return t


def trained_on_characters(pre_tokenizer, decoder, added, normalizer=None, train_with=None,
                          byte_fallback=True, **options):
    t = Tokenizer(BPE(unk_token="<unk>", **options))
    t.pre_tokenizer = train_with or pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    first = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % byte for byte in range(256 if byte_fallback else 0)]
    t.train_from_iterator(SENTENCES, BpeTrainer(
        vocab_size=len(first) + 330, limit_alphabet=130, special_tokens=first, show_progress=False))
    state = json.loads(t.to_str())
    state["model"]["byte_fallback"] = byte_fallback
    state["added_tokens"] = []  # bytes are no added tokens
    t = Tokenizer.from_str(json.dumps(state))
    if normalizer:
        t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    else:
        del_pre = json.loads(t.to_str())
        del_pre["pre_tokenizer"] = None
        t = Tokenizer.from_str(json.dumps(del_pre))
    t.decoder = decoder
    t.add_tokens(added)
    return t


LLAMA2_TOKENS = [special("<unk>"), special("<s>"), special("</s>")]


def llama2_decoder(strip=True):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


def families():
    t = trained_on_bytes(pre_tokenizers.Sequence([split(QWEN), byte_level()]),
                         [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"),
                          AddedToken("<think>", normalized=False)], normalizers.NFC())
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    yield "qwen2", t, "pairs"

    t = trained_on_bytes(pre_tokenizers.Sequence([split(LLAMA3), byte_level()]),
                         [special("<|begin_of_text|>"), special("<|end_of_text|>"),
                          special("<|eot_id|>")], ignore_merges=True)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                            template(t, ["<|begin_of_text|>"])])
    yield "llama3", t, "pairs"

    t = trained_on_bytes(byte_level(use_regex=True), [special("<|endoftext|>", lstrip=True, rstrip=True)])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    yield "gpt2", t, "strings"

    t = trained_on_bytes(byte_level(True, True), [special("<|endoftext|>")])
    t.post_processor = template(t, after=["<|endoftext|>"])
    yield "gpt2-prefix-space", t, "strings"

    t = trained_on_bytes(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                  byte_level(use_regex=True)]),
                         [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    yield "smollm2", t, "strings"

    t = trained_on_bytes(pre_tokenizers.Sequence([split(TEKKEN), byte_level()]),
                         [special("<unk>"), special("<s>"), special("</s>"), special("[INST]")],
                         ignore_merges=True)
    t.post_processor = template(t, ["<s>"])
    yield "tekken", t, "pairs"

    t = trained_on_bytes(
        pre_tokenizers.Sequence([
            split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(r"\s+$"),
            split("[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Split("ship", "isolated"),
            pre_tokenizers.Digits(individual_digits=False), byte_level()]),
        [special("<｜begin▁of▁sentence｜>"), AddedToken("<｜User｜>", normalized=True)],
        normalizers.Sequence([]))
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    yield "deepseek", t, "strings"

    t = trained_on_characters(None, llama2_decoder(), LLAMA2_TOKENS, byte_fallback=True, fuse_unk=True,
                              normalizer=normalizers.Sequence([normalizers.Prepend("▁"),
                                                               normalizers.Replace(" ", "▁")]))
    t.post_processor = template(t, ["<s>"])
    yield "llama2", t, "strings"

    t = trained_on_characters(pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                              llama2_decoder(), LLAMA2_TOKENS + [special("[INST]"), special("[/INST]")],
                              fuse_unk=True)
    t.post_processor = template(t, ["<s>"])
    yield "mistral", t, "pairs"

    t = trained_on_characters(None, llama2_decoder(strip=False),
                              [special("<unk>"), special("<|startoftext|>"), special("<|im_end|>"),
                               AddedToken("two words", normalized=True)],
                              fuse_unk=True,
                              normalizer=normalizers.Sequence([normalizers.Replace(" ", "▁")]))
    yield "yi", t, "strings"

    # Merges across words: the text cannot be cut into words first.
    t = trained_on_characters(pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
                              llama2_decoder(), LLAMA2_TOKENS, fuse_unk=True,
                              train_with=pre_tokenizers.Metaspace(split=False))
    t.post_processor = template(t, ["<s>"], ["</s>"])
    yield "across-words", t, "pairs"

    for scheme in ["always", "first", "never"]:
        t = trained_on_characters(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True),
                                  decoders.Metaspace(prepend_scheme=scheme), LLAMA2_TOKENS,
                                  byte_fallback=False, fuse_unk=scheme != "first")
        yield "metaspace-" + scheme, t, "pairs"


def texts(added):
    rng = random.Random(20)
    result = ["", " ", "a", " a", "a ", "  two  words  "] + SENTENCES
    names = [token.content for token in added]
    for name in names:
        result += [name, name + name, "a" + name + "b", "  " + name + "  x", name + " ship"]
    pieces = PIECES + names
    result += ["".join(rng.choice(pieces) for _ in range(rng.randrange(1, 14))) for _ in range(60)]
    characters = [chr(c) for s, e in [(0x20, 0x7f), (0xa0, 0x250), (0x300, 0x370), (0x370, 0x530),
                                      (0x590, 0x700), (0x900, 0x980), (0xe00, 0xe80), (0x1100, 0x1200),
                                      (0x2000, 0x2100), (0x3000, 0x3100), (0x4e00, 0x4f00),
                                      (0xac00, 0xad00), (0x1f300, 0x1f400)] for c in range(s, e)]
    result += ["".join(rng.choice(characters) for _ in range(12)) for _ in range(10)]
    return result


def write(name, tokenizer, merges):
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    state = json.loads(tokenizer.to_str())
    pairs = state["model"]["merges"]
    if merges == "strings":
        state["model"]["merges"] = [" ".join(pair) for pair in pairs]
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as out:
        json.dump(state, out, ensure_ascii=False, separators=(",", ":"))
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    rng = random.Random(21)
    size = tokenizer.get_vocab_size()
    byte_ids = [i for i in range(size) if tokenizer.id_to_token(i).startswith("<0x")]
    with open(os.path.join(folder, "golden.jsonl"), "w", encoding="utf-8") as out:
        def line(value):
            out.write(json.dumps(value, separators=(",", ":")) + "\n")
        for text in texts(tokenizer.get_added_tokens_decoder().values()):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            line({"text": text, "ids": ids, "sample": tokenizer.encode(text).ids,
                  "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
        for count in range(40):
            pool = byte_ids if byte_ids and count % 4 == 0 else range(size)
            ids = [rng.choice(pool) for _ in range(rng.randrange(1, 10))]
            line({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})


def token(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


CONFIGS = {
    "added_tokens_decoder": {"tokenizer_config.json": {"added_tokens_decoder": {
        "524": token("<late>"), "523": token("<extra>"), "520": token("<|endoftext|>"),
        "700": token("<gap>", special=False)}}},
    "other flags": {"tokenizer_config.json": {"added_tokens_decoder": {
        "521": token("<|im_start|>", lstrip=True, rstrip=True)}}},
    "extra_special_tokens": {"tokenizer_config.json": {"extra_special_tokens": ["<extra>", "<late>"]}},
    "extra_special_tokens by name": {"tokenizer_config.json": {
        "extra_special_tokens": {"late": "<late>", "extra_token": "<extra>"},
        "additional_special_tokens": ["<gap>"]}},
    "additional_special_tokens": {"tokenizer_config.json": {
        "additional_special_tokens": ["<late>", "<extra>", "<|im_end|>"]}},
    "both lists": {"tokenizer_config.json": {"extra_special_tokens": ["<extra>"],
                                             "additional_special_tokens": ["<late>"]}},
    "named tokens": {"tokenizer_config.json": {
        "pad_token": "<late>", "eos_token": "<|im_end|>", "image_token": "<gap>",
        "bos_token": {"__type": "AddedToken", **token("<extra>", rstrip=True)}}},
    "a word of the vocabulary": {"tokenizer_config.json": {"pad_token": "ship"}},
    "older files": {"tokenizer_config.json": {"pad_token": "<gap>"},
                    "special_tokens_map.json": {"pad_token": token("<late>"), "eos_token": "<extra>"},
                    "added_tokens.json": {"<old>": 530, "<extra>": 525}},
    "no added tokens": {"tokenizer.json": {"added_tokens": []}, "tokenizer_config.json": {
        "added_tokens_decoder": {"523": token("<extra>"), "520": token("<|endoftext|>"),
                                 "521": token("<|im_start|>")}, "pad_token": "<|im_end|>"}},
}
CONFIG_TEXTS = ["a<extra>b", "a <late>  b<gap>", "x <|im_start|> y<|im_end|><|endoftext|>", "the ships",
                "<old> <extra> <old>"]


def write_configs():
    from transformers import PreTrainedTokenizerFast
    cases = []
    for name, files in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(OUT, "qwen2", "tokenizer.json"), encoding="utf-8") as source:
                state = json.load(source)
            state.update(files.get("tokenizer.json", {}))
            for file, content in {**files, "tokenizer.json": state}.items():
                with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
                    json.dump(content, out)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            cases.append({"name": name, "files": files, "size": max(tokenizer.get_vocab().values()) + 1,
                          "texts": [[text, tokenizer.encode(text, add_special_tokens=False)]
                                    for text in CONFIG_TEXTS]})
    with open(os.path.join(OUT, "configs.json"), "w", encoding="utf-8") as out:
        json.dump(cases, out, indent=1)
        out.write("\n")


for family in families():
    write(*family)
write_configs()
