"""The results as a page: medians, spreads, ratios against each peer, the goals, and how to run them again.

Left out: judging whether a difference is noise (the spread is printed for that).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

GOALS = {"full": {"best": (1.4, 1.7), "packed": (1.8, 2.2)}, "lora": {"best": (1.2, 1.6), "packed": (1.6, 2.2)}}
"""Floor and aim (row P1) of our tokens per second over the best peer's, and over every packed side's that Hugging Face code runs."""
PACKED = ("trl", "trl-flat", "llamafactory")
LEANEST, MEMORY = "litgpt", 1.05
"""Peak memory: below every side's of PACKED, and at most so many times this one's."""


def summary(runs: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Medians over the runs of one side."""
    cpu = [run["train_cpu_s"] for run in runs]
    return {
        "rounds": len(runs),
        "cpu_s": median(cpu),
        "cpu_s_min": min(cpu),
        "cpu_s_max": max(cpu),
        "wall_s": median(run["train_wall_s"] for run in runs),
        "tokens_per_cpu_s": tokens / median(cpu),
        "peak_mb": median(run["peak_mb"] for run in runs),
        "before_mb": median(run["before_mb"] for run in runs),
        "before_cpu_s": median(run["before_cpu_s"] for run in runs),
        "held_out_loss": median(run["held_out_loss"] for run in runs),
        "steps": runs[0]["steps"],
        "setting": runs[0]["setting"],
        "versions": runs[0]["versions"],
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def lines(title: str, sides: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], ours: str) -> list[str]:
    """One table in Markdown: a line a side, ours first, then by speed."""
    out = [
        f"## {title}",
        "",
        "| side | CPU s (min to max) | wall s | tokens per CPU s | ours is | peak MB | held-out loss | steps | setting |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    own = sides.get(ours, {}).get("tokens_per_cpu_s")
    order = sorted(sides, key=lambda name: (name != ours, -sides[name].get("tokens_per_cpu_s", 0.0)))
    for name in order:
        side = sides[name]
        if "error" in side:
            out.append(f"| {titles[name]} | failed: {side['error']} | | | | | | | |")
            continue
        ratio = f"{own / side['tokens_per_cpu_s']:.2f}x" if own and name != ours else ""
        bold = "**" if name == ours else ""
        version = side["versions"].get(name.split("-")[0], "")
        out.append(
            f"| {bold}{titles[name]} {version}{bold} "
            f"| {side['cpu_s']:.2f} ({side['cpu_s_min']:.2f} to {side['cpu_s_max']:.2f}) | {side['wall_s']:.2f} "
            f"| {side['tokens_per_cpu_s']:.0f} | {ratio} | {side['peak_mb']:.0f} | {side['held_out_loss']:.3f} "
            f"| {side['steps']} | {side['setting']} |"
        )
    return [*out, ""]


def goals(sides: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], ours: str, tune: str) -> list[str]:
    """A line per goal that could be judged: aim met, floor met, or missed. A peer that failed is no best peer."""
    out: list[str] = []
    own = sides.get(ours, {})
    ran = {name: side for name, side in sides.items() if name != ours and "tokens_per_cpu_s" in side}
    if "tokens_per_cpu_s" not in own or not ran:
        return out
    best = max(ran, key=lambda name: ran[name]["tokens_per_cpu_s"])
    wanted = {name: GOALS[tune]["packed"] for name in PACKED if name in ran}
    for name, (floor, aim) in [(best, GOALS[tune]["best"]), *wanted.items()]:
        got = own["tokens_per_cpu_s"] / ran[name]["tokens_per_cpu_s"]
        said = "aim met" if got >= aim else "floor met" if got >= floor else "missed"
        which = " (the best peer)" if name == best and floor == GOALS[tune]["best"][0] else ""
        out.append(f"- {got:.2f}x {titles[name]}{which}, floor {floor}x, aim {aim}x: {said}")
    for name in [name for name in (*PACKED, LEANEST) if name in ran]:
        factor = MEMORY if name == LEANEST else 1.0
        lean = (
            own["peak_mb"] <= factor * ran[name]["peak_mb"]
            if name == LEANEST
            else own["peak_mb"] < ran[name]["peak_mb"]
        )
        limit = f" (at most {MEMORY}x)" if name == LEANEST else ""
        out.append(
            f"- peak memory {own['peak_mb']:.0f} MB against {titles[name]}'s {ran[name]['peak_mb']:.0f}{limit}: "
            + ("met" if lean else "missed")
        )
    return out


def page(report: Mapping[str, Any], titles: Mapping[str, str], ours: str) -> str:
    """The dated page."""
    data, host = report["workload"], report["machine"]
    head = [
        f"# Supervised tuning on CPU, {report['date']}",
        "",
        f"`{report['command']}`",
        "",
        f"{data['rows']} conversations, {data['tokens']} tokens ({data['prompt_share']:.0%} prompt; median "
        f"{data['median']}, longest {data['longest']}), one epoch, {report['batch']} rows a step, AdamW at "
        f"{report['lr']:g} without decay, fp32, threads: {report['threads']}. Model: Llama shape, {data['shape']}. Medians of "
        f"{report['rounds']} interleaved rounds; CPU seconds from the start of training to the end of the last step; "
        "peak memory of the whole process until then.",
        "",
        f"Machine: {host['cpu']}, {host['cores']} cores, {host['system']}; load before {host['load_before'][0]}, after "
        f"{report['load_after'][0]}.",
        "",
    ]
    for tune, sides in report["results"].items():
        title = "Every weight" if tune == "full" else "LoRA, rank 16, all linear layers"
        head += lines(title, sides, titles, ours)
        found = goals(sides, titles, ours, tune)
        head += [*found, ""] if found else []
    head += ["## Versions", ""]
    for name, side in next(iter(report["results"].values())).items():
        if "versions" in side:
            head.append(f"- {titles[name]}: " + ", ".join(f"{k} {v}" for k, v in side["versions"].items()))
    return "\n".join(head) + "\n"
