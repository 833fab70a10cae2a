"""Writes the tables of docs/speed.md from the results in benchmarks/*.json.

    python docs/build_benchmarks.py

No number there is typed by hand; tests/test_docs.py fails while a table is older than its file.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def step(result: dict[str, Any]) -> str:
    """The rows of ``vlm_grpo_step.json``."""
    columns = ["image tokens, completion, G, prompts", "model", "TRL", "Saccade", "ratio (range)", "wall", "memory",
               "training pass", "gradient of TRL's loss"]  # fmt: skip
    rows = []
    for row in result["rows"]:
        chosen, cpu = row["settings"], {side: row["medians"][side]["cpu_s"] for side in ("trl", "saccade")}
        what = ", ".join(str(chosen[name]) for name in ("image_tokens", "completion", "group", "prompts"))
        if chosen["beta"]:
            what += f"; KL {chosen['beta']}, {chosen['iterations']} updates"
        low, high = row["ratio_cpu_range"]
        rows.append([
            what, chosen["size"], f"{cpu['trl']:.2f} s", f"{cpu['saccade']:.2f} s",
            f"{row['ratio_cpu']:.1f}x ({low:.1f}-{high:.1f})", f"{row['ratio_wall']:.1f}x",
            f"1/{row['ratio_memory']:.1f}", f"{row['fraction_of_flop_bound']:.0%}",
            f"{row['gradient_relative_error_vs_trl']:.0e}",
        ])  # fmt: skip
    software, machine = result["rows"][0]["software"], result["rows"][0]["machine"]
    versions = {**software["trl"]["versions"], **software["saccade"]["versions"]}
    facts = ", ".join(f"{name} {versions[name]}" for name in ("trl", "torch", "transformers"))
    return f"{table(columns, rows)}\n\n{facts}; {machine['cpu']}, {machine['cores']} cores. `{result['command']}`"


def diffusion(result: dict[str, Any]) -> str:
    """The rows of ``diffusion_rl_step.json``."""
    columns = ["network", "shape", "CPU s a sample", "against", "ratio (range)", "by evaluations", "gradient"]
    rows = []
    for row in result["rows"]:
        line = [row["net"], row["name"], f"{row['cpu_seconds_per_sample']:.3f}"]
        if row["peer"] is None:
            rows.append([*line, "", "", "", ""])
            continue
        low, high = row["ratio_range"]
        error = row["gradient_relative_error"]
        rows.append([
            *line, row["peer"], f"{row['ratio']:.2f}x ({low:.2f}-{high:.2f})", f"{row['ratio_of_forwards']:.2f}x",
            "another estimator" if error is None else f"{error:.0e}",
        ])  # fmt: skip
    facts = ", ".join(f"{name} {result['software'][name]}" for name in ("torch", "diffusers"))
    machine = result["machine"]
    return f"{table(columns, rows)}\n\n{facts}; {machine['cpu']}, {machine['cores']} cores. `{result['command']}`"


def environments(result: dict[str, Any]) -> str:
    """The rows of ``environments.json``: array programs, then the adapter."""
    columns = ["task", "sees", "lanes", "steps a CPU s", "SyncVectorEnv", "ratio (range)", "AsyncVectorEnv, wall"]
    rows = []
    for row in result["rows"]:
        low, high = row["range_sync_cpu"]
        wall = row.get("ratio_async_wall")
        rates = [f"{row['medians'][kind]['cpu']:,.0f}" for kind in ("arrays", "sync")]
        rows.append([
            row["task"], row["sees"], str(row["lanes"]), *rates,
            f"{row['ratio_sync_cpu']:.1f}x ({low:.1f}-{high:.1f})", "" if wall is None else f"{wall:.1f}x",
        ])  # fmt: skip
    adapter = []
    for row in result["adapter"]:
        low, high = row["range"]
        over, own = f"{row['over']:.2f} ({low:.2f}-{high:.2f})", f"{row['cpu_us_per_step']['sync']:.0f}"
        adapter.append([row["env"], str(row["lanes"]), own, f"{row['more_us']:.1f}", over])
    below = ["gymnasium adapter over", "lanes", "SyncVectorEnv, CPU us a step", "more", "times SyncVectorEnv (range)"]
    facts = ", ".join(f"{name} {result['software'][name]}" for name in ("gymnasium", "numpy", "torch"))
    machine = result["machine"]
    tables = f"{table(columns, rows)}\n\n{table(below, adapter)}"
    return f"{tables}\n\n{facts}; {machine['cpu']}, {machine['cores']} cores. `{result['command']}`"


TABLES = {"vlm_grpo_step": step, "diffusion_rl_step": diffusion, "environments": environments}
"""By the name of the result's file."""


def page(text: str) -> str:
    """The page with the tables between their marks as the files have them; without a file there is no table."""
    for name, write in TABLES.items():
        begin, end = f"<!-- {name}: written by docs/build_benchmarks.py -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        file = ROOT / "benchmarks" / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        text = f"{before}{begin}\n{write(result)}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
