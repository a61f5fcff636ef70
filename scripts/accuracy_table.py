"""The table and the plot of scripts/accuracy.sh: accuracy_table.py OUT TEXTS MODEL..., TEXTS one a line."""
import html
import json
import math
import pathlib
import sys


def read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def average_bits(run):
    linears = [linear for layer in run["layers"] for linear in layer["linears"]]
    weights = sum(linear["parameters"] for linear in linears)
    return sum(linear["parameters"] * linear["weight_bits"] for linear in linears) / weights


def cells(work, name, texts, beside):
    """Of each text perplexity, KL and top-1, of the tasks accuracy and flips."""
    row = []
    for text in texts:
        figures = read(work / f"{name}.{text}.json")
        row.append(f"{figures['perplexity']:.2f}")
        if beside:
            row.append(f"{figures['kl']['mean']:.5f} ± {figures['kl']['stderr']:.5f}")
            row.append(f"{figures['top1_agreement']:.3f}")
        else:
            row += ["", ""]
    tasks = read(work / f"{name}.tasks.json")
    if tasks:
        tasks = tasks["models"][0] if "models" in tasks else tasks
        row.append(f"{tasks['accuracy']:.3f} ± {tasks['accuracy_stderr']:.3f}")
        row.append(str(tasks["flips"]["right_to_wrong"] + tasks["flips"]["wrong_to_right"]) if beside else "")
    return row


def plot(points, models):
    """KL on the first text against average bits, a colour a model."""
    colours = ["#1b6ca8", "#c26a00", "#a4243b", "#3a7d44", "#6b4c9a"]
    kls = [kl for _, _, _, kl in points if kl > 0]
    low, high = math.log10(min(kls)) - 0.1, math.log10(max(kls)) + 0.1
    x = lambda bits: 70 + 560 * (bits - 3.8) / 4.4
    y = lambda kl: 350 - 310 * (math.log10(kl) - low) / (high - low)
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 430" font-family="sans-serif" font-size="11">',
           '<rect width="660" height="430" fill="white"/>']
    for bits in range(4, 9):
        svg.append(f'<path d="M{x(bits):.1f} 40V350" stroke="#ddd"/>'
                   f'<text x="{x(bits):.1f}" y="366" text-anchor="middle">{bits}</text>')
    for power in range(-4, 2):
        for digit in (1, 2, 5):
            kl = digit * 10.0**power
            if low <= math.log10(kl) <= high:
                svg.append(f'<path d="M70 {y(kl):.1f}H630" stroke="#ddd"/>'
                           f'<text x="64" y="{y(kl) + 4:.1f}" text-anchor="end">{kl:g}</text>')
    svg.append('<text x="350" y="384" text-anchor="middle">bits of a linear weight, on average</text>')
    svg.append('<text x="70" y="28">KL from the float model, nats per token</text>')
    for i, model in enumerate(models):
        svg.append(f'<circle cx="{80 + 190 * i}" cy="408" r="5" fill="{colours[i % 5]}"/>'
                   f'<text x="{90 + 190 * i}" y="412">{html.escape(model)}</text>')
    for model, profile, bits, kl in points:
        if kl > 0:
            svg.append(f'<circle cx="{x(bits):.1f}" cy="{y(kl):.1f}" r="5" fill="{colours[models.index(model) % 5]}"/>'
                       f'<text x="{x(bits) + 8:.1f}" y="{y(kl) + 4:.1f}">{html.escape(profile)}</text>')
    return "\n".join(svg + ["</svg>"]) + "\n"


def main():
    out, texts, models = pathlib.Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]
    lines, points = [], []
    for model in models:
        work = out / model
        has_tasks = (work / "float.tasks.json").exists()
        header = [model, "bits"]
        for text in texts:
            header += [f"{text}: perplexity", "KL", "top-1"]
        header += (["tasks", "flips"] if has_tasks else []) + ["time", "peak RSS"]
        lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        row = ["float", "16"] + cells(work, "float", texts, False) + ["", ""]
        lines.append("| " + " | ".join(row) + " |")
        for file in sorted(work.glob("*.profile"), key=lambda path: path.stat().st_mtime):
            name, profile = file.stem, file.read_text(encoding="utf-8").strip()
            run = read(work / name / "run.json")
            row = [f"`{profile}`", f"{average_bits(run):.2f}"] + cells(work, name, texts, True)
            row += [f"{run['timings']['total']:.0f} s", f"{run['peak_rss_bytes'] / 1e6:.0f} MB"]
            lines.append("| " + " | ".join(row) + " |")
            if texts:
                kl = read(work / f"{name}.{texts[0]}.json")["kl"]["mean"]
                points.append((model, profile, average_bits(run), kl))
        lines.append("")
    table = "\n".join(lines)
    (out / "accuracy.md").write_text(table, encoding="utf-8")
    if points:
        (out / "accuracy.svg").write_text(plot(points, models), encoding="utf-8")
    print(table)


main()
