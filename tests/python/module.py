"""python/laos against the program and docs/json.md. Arguments: repository root, the program."""

import os
import pathlib
import re
import sys
import tempfile
import typing

root, program = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path.insert(0, str(root / "python"))
import laos  # noqa: E402
from laos import records  # noqa: E402

os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
model, calib = root / "models/qwen3-tiny", root / "calib/qwen3-tiny-calib.jsonl"
recipe = root / "recipes/qwen3-tiny-w4a4-rotation.yaml"

# Every key that the module gives a type stands on the page under that type.
page = {}
for section in re.split(r"^## ", (root / "docs/json.md").read_text(encoding="utf-8"), flags=re.M)[1:]:
    page[section.splitlines()[0].strip("`")] = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section, flags=re.M))


def check(kind, section, prefix=""):
    for key, hint in typing.get_type_hints(kind).items():
        said = page[section].get(prefix + key)
        assert said, f"{section} has no {prefix}{key} of {kind.__name__}"
        inner = [one for one in (hint, *typing.get_args(hint)) if isinstance(one, type) and one is not type(None)]
        name = {int: "integer", float: "number", str: "string", list: "list"}
        if typing.get_origin(hint) is list:
            assert said == "list", (section, key, said)
            if issubclass(inner[0], records.Record):
                check(inner[0], section, f"{prefix}{key}[].")
        elif issubclass(inner[0], records.Record):
            assert said.startswith("object"), (section, key, said)
            if inner[0] is records.Health:
                check(inner[0], "laos check --json")
            elif inner[0] is not kind:
                check(inner[0], section, f"{prefix}{key}.")
        else:
            assert said.split()[0] == name[inner[0]], (section, key, said, hint)


check(records.Plan, "laos quant --dry-run --json")
check(records.Run, "laos quant --json")
check(records.Evaluation, "laos eval --text --json")
check(records.Step, "--progress json")

with tempfile.TemporaryDirectory() as folder:
    plan = laos.plan(model, config_path=recipe, dataset=calib, nsamples=4)
    assert isinstance(plan, laos.Plan) and plan.peak_ram_bytes > 0 and plan.linears[0].weight_bits == 8, plan
    assert not pathlib.Path("laos-plan").exists()
    refused = laos.plan(model, config_path=recipe, dataset=calib, max_memory="1MB")
    assert refused.refusals and refused.refusals[0].what, refused.refusals

    steps = []
    run = laos.quantize(model, folder + "/out", config_path=recipe, dataset=calib, nsamples=4, lenient=True,
                        progress=steps.append)
    assert {"fit rotation", "quantize"} <= {step.stage for step in steps}, steps
    assert steps[-1].share == 1.0, steps[-1]
    assert run.health.verdict in ("good", "degraded", "broken") and run.timings.total > 0
    assert run.layers[0].linears[0].label == "W8A8_DYNAMIC", run.layers[0]
    assert (pathlib.Path(folder) / "out/run.json").exists()

    kl = laos.evaluate(folder + "/out", baseline=model, text=root / "models/qwen3-tiny-eval.txt", seq_len=256,
                       max_tokens=512).kl
    assert 0 < kl.mean < 1 and dict(kl.to_dict())["mean"] == kl["mean"], kl

    for wrong, code, part in [({"config_path": recipe, "quant_type": "w4a4"}, 2, "--config-path"),
                              ({"config_path": folder + "/none.yaml"}, 1, "none.yaml")]:
        try:
            laos.plan(model, **wrong)
        except laos.Error as error:
            assert error.exit_code == code and part in str(error), (error.exit_code, error)
        else:
            raise AssertionError(f"no error of {wrong}")
print("as docs/json.md says")
