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

GOALS = {"litgpt": 1.25, "trl": 1.7}
"""Tokens per CPU second of ours over theirs, full tuning."""
LESS_MEMORY_THAN = ("trl", "llamafactory")


def summary(runs: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Medians over the runs of one side."""
    cpu = [run["train_cpu_s"] for run in runs]
    return {
        "rounds": len(runs),
        "cpu_s": median(cpu),
        "cpu_s_min": min(cpu),
        "cpu_s_max": max(cpu),
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
        "| side | CPU s (min to max) | tokens per CPU s | ours is | peak MB | held-out loss | steps | setting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    own = sides.get(ours, {}).get("tokens_per_cpu_s")
    order = sorted(sides, key=lambda name: (name != ours, -sides[name].get("tokens_per_cpu_s", 0.0)))
    for name in order:
        side = sides[name]
        if "error" in side:
            out.append(f"| {titles[name]} | failed: {side['error']} | | | | | | |")
            continue
        ratio = f"{own / side['tokens_per_cpu_s']:.2f}x" if own and name != ours else ""
        bold = "**" if name == ours else ""
        version = side["versions"].get(name.split("-")[0], "")
        out.append(
            f"| {bold}{titles[name]} {version}{bold} "
            f"| {side['cpu_s']:.2f} ({side['cpu_s_min']:.2f} to {side['cpu_s_max']:.2f}) "
            f"| {side['tokens_per_cpu_s']:.0f} | {ratio} | {side['peak_mb']:.0f} | {side['held_out_loss']:.3f} "
            f"| {side['steps']} | {side['setting']} |"
        )
    return [*out, ""]


def goals(sides: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], ours: str) -> list[str]:
    """A line per goal that could be judged, with met or missed."""
    out = []
    own = sides.get(ours, {})
    if "tokens_per_cpu_s" not in own:
        return out
    for name, wanted in GOALS.items():
        if "tokens_per_cpu_s" in sides.get(name, {}):
            got = own["tokens_per_cpu_s"] / sides[name]["tokens_per_cpu_s"]
            out.append(f"- {got:.2f}x {titles[name]} (goal {wanted}x): {'met' if got >= wanted else 'missed'}")
    for name in LESS_MEMORY_THAN:
        if "peak_mb" in sides.get(name, {}):
            less = own["peak_mb"] < sides[name]["peak_mb"]
            out.append(
                f"- peak memory {own['peak_mb']:.0f} MB against {titles[name]}'s {sides[name]['peak_mb']:.0f}: "
                + ("met" if less else "missed")
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
        f"{report['lr']:g} without decay, fp32, one thread. Model: Llama shape, {data['shape']}. Medians of "
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
        if tune == "full":
            found = goals(sides, titles, ours)
            head += [*found, ""] if found else []
    head += ["## Versions", ""]
    for name, side in next(iter(report["results"].values())).items():
        if "versions" in side:
            head.append(f"- {titles[name]}: " + ", ".join(f"{k} {v}" for k, v in side["versions"].items()))
    return "\n".join(head) + "\n"
