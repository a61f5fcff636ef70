"""laos from Python: runs the program and gives back what it says as objects. Nothing is computed here.

    import laos
    run = laos.quantize("models/qwen3-tiny", "w4a4", fast=True, progress="tqdm")
    print(laos.evaluate("w4a4", baseline="models/qwen3-tiny", text="text.txt", seq_len=256).kl.mean)

Every keyword is a flag of the program (`laos quant --help`): `max_memory="8GB"` is --max-memory 8GB, True a flag without
a value, None and False no flag, a list a flag that is repeated.
"""

import json
import pathlib
import shutil
import subprocess
import sys

from laos.records import Evaluation, Plan, Record, Run, Step

__all__ = ["Error", "Evaluation", "Plan", "Record", "Run", "Step", "evaluate", "plan", "program", "quantize"]


class Error(RuntimeError):
    """The program could not do it; the text is its message. `exit_code`: `laos help exit-codes`."""

    def __init__(self, message, exit_code):
        super().__init__(message)
        self.exit_code = exit_code


def program():
    """The path of the program: the one of this package, or `laos` of the PATH."""
    own = pathlib.Path(__file__).parent / "program" / "bin" / "laos"
    found = str(own) if own.exists() else shutil.which("laos")
    if not found:
        raise FileNotFoundError("the program laos is not in this package and not on the PATH")
    return found


def quantize(model_path, save_path, *, progress=None, **flags) -> Run:
    """Quantizes a checkpoint into the directory `save_path` and gives back what its run.json holds.

    progress: None; "tqdm", a bar of that package; or a function that gets a Step for each (docs/json.md).
    A checkpoint that the health check calls broken is an Error, with lenient=True none.
    """
    return _run(Run, "quant", progress, model_path=model_path, save_path=save_path, **flags)


def plan(model_path, save_path="laos-plan", **flags) -> Plan:
    """What quantize() would do with the same arguments and what it would cost; writes nothing.

    What would be refused for want of memory or disk stands in its `refusals`.
    """
    return _run(Plan, "quant", None, model_path=model_path, save_path=save_path, dry_run=True, **flags)


def evaluate(model_path, *, baseline=None, text=None, progress=None, **flags) -> Evaluation:
    """Perplexity of a checkpoint on a text, and beside a baseline KL and agreement."""
    return _run(Evaluation, "eval", progress, model_path=model_path, baseline=baseline, text=text, **flags)


def _arguments(flags):
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is True:
                yield flag
            elif item is not None and item is not False:
                yield from (flag, str(item))


def _run(kind, command, progress, **flags):
    arguments = [program(), command, *_arguments(flags), "--json", "--progress", "json" if progress else "none"]
    show = _bar() if progress == "tqdm" else progress
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        # Standard output is one document, written at the end: standard error can be read to its own end first.
        said = []
        try:
            for line in process.stderr:
                step = _step(line)
                if step is None:
                    said.append(line)
                elif show:
                    show(Step(step))
            answer = process.stdout.read()
        except BaseException:
            process.terminate()  # it keeps finished layers
            raise
    # A plan that would be refused is a result, which says so itself.
    if process.returncode != 0 and not (kind is Plan and answer.strip()):
        raise Error("".join(said).strip(), process.returncode)
    sys.stderr.write("".join(said))
    return kind(json.loads(answer))


def _step(line):
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _bar():
    from tqdm.auto import tqdm

    bars = {}

    def show(step):
        bar = bars.get(step.stage)
        if bar is None:
            for other in bars.values():
                other.close()
            bar = bars[step.stage] = tqdm(total=1, desc=step.stage, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}")
        bar.update(step.share - bar.n)
        if "loss" in step:
            bar.set_postfix(loss=step.loss)

    return show
