"""The model class `laos` for lm-evaluation-harness (lm_eval 0.4): the program does the work.

    python3 python/laos_lm.py run --model laos --model_args model_path=DIR --tasks arc_easy

Arguments of the model: model_path; laos (the program, `laos` of the PATH by default); threads; batch (requests that run
together); emulate (as of `laos loglikelihood`).
"""

import json
import subprocess
import tempfile

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model


@register_model("laos")
class LaosLM(LM):
    def __init__(self, model_path, laos="laos", threads=None, batch=64, emulate=None, **kwargs):
        super().__init__()
        # What the harness gives every model and has no meaning here.
        unknown = set(kwargs) - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise ValueError(f"laos has no model_args {', '.join(sorted(unknown))}")
        self.laos, self.model_path, self.batch = laos, model_path, batch
        self.options = ["--threads", str(threads)] if threads else []
        if emulate:
            self.options += ["--emulate", emulate]

    def _run(self, command, *arguments, text=None):
        run = subprocess.run([self.laos, command, "--model-path", self.model_path, *self.options, *arguments],
                             input=text, stdout=subprocess.PIPE, encoding="utf-8")
        if run.returncode != 0:
            raise RuntimeError(f"laos {command} ended with {run.returncode}; its message stands above")
        return run.stdout

    def _score(self, pairs):
        lines = [json.dumps({"context": context, "continuation": continuation}) for context, continuation in pairs]
        output = self._run("loglikelihood", "--batch", str(self.batch), text="".join(line + "\n" for line in lines))
        answers = [json.loads(line) for line in output.splitlines()]
        if len(answers) != len(pairs):
            raise RuntimeError(f"laos answered {len(answers)} of {len(pairs)} requests")
        cut = sum("cut" in answer for answer in answers)
        if cut:
            print(f"laos: {cut} contexts were longer than the model's positions and lost their beginning")
        return [(answer["logprob"], answer["greedy"]) for answer in answers]

    def loglikelihood(self, requests):
        return self._score([request.args for request in requests])

    def loglikelihood_rolling(self, requests):
        return [logprob for logprob, _ in self._score([("", request.args[0]) for request in requests])]

    def generate_until(self, requests):
        groups = {}  # prompts that end alike run together
        for index, request in enumerate(requests):
            context, options = request.args
            options = dict(options)
            if options.get("do_sample") or options.get("temperature", 0) not in (0, None):
                raise ValueError("laos generates greedily for the harness: set do_sample: false, temperature: 0")
            until = options.get("until") or []
            until = [until] if isinstance(until, str) else list(until)
            groups.setdefault(int(options.get("max_gen_toks", 256)), []).append((index, context, until))
        texts = [""] * len(requests)
        for tokens, group in groups.items():
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": context}) + "\n" for _, context, _ in group)
                file.flush()
                output = self._run("generate", "--prompt-file", file.name, "--max-new-tokens", str(tokens), "--json")
            results = json.loads(output)["results"]
            if len(results) != len(group):
                raise RuntimeError(f"laos answered {len(results)} of {len(group)} prompts")
            for (index, _, until), result in zip(group, results):
                text = result["text"]
                for end in until:
                    text = text.split(end)[0]
                texts[index] = text
        return texts


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
