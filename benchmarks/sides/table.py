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

from parts import HUGGING_FACE, LEANEST, MEMORY, OURS, Part


def summary(runs: Sequence[Mapping[str, Any]], amount: float) -> dict[str, Any]:
    """Medians over the runs of one side, which each did `amount` of the part's unit."""
    cpu = [run["train_cpu_s"] for run in runs]
    return {
        "rounds": len(runs),
        "cpu_s": median(cpu),
        "cpu_s_min": min(cpu),
        "cpu_s_max": max(cpu),
        "wall_s": median(run["train_wall_s"] for run in runs),
        "rate": amount / median(cpu),
        "peak_mb": median(run["peak_mb"] for run in runs),
        "before_mb": median(run["before_mb"] for run in runs),
        "before_cpu_s": median(run["before_cpu_s"] for run in runs),
        "loss": median(run["loss"] for run in runs),
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


def lines(part: Part, sides: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[str]:
    """One table in Markdown: a line a side, ours first, then by speed."""
    out = [
        f"| side | CPU s (min to max) | wall s | {part.unit} per CPU s | ours is | peak MB | {part.loss} | steps | setting |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    own = sides.get(OURS, {}).get("rate")
    order = sorted(sides, key=lambda name: (name != OURS, -sides[name].get("rate", 0.0)))
    for name in order:
        side = sides[name]
        if "error" in side:
            out.append(f"| {titles[name]} | failed: {side['error']} | | | | | | | |")
            continue
        ratio = f"{own / side['rate']:.2f}x" if own and name != OURS else ""
        bold = "**" if name == OURS else ""
        version = side["versions"].get("transformers" if name == "hf" else name.split("-")[0], "")
        out.append(
            f"| {bold}{titles[name]} {version}{bold} "
            f"| {side['cpu_s']:.2f} ({side['cpu_s_min']:.2f} to {side['cpu_s_max']:.2f}) | {side['wall_s']:.2f} "
            f"| {side['rate']:.{0 if side['rate'] > 100 else 2}f} | {ratio} | {side['peak_mb']:.0f} | {side['loss']:.4f} "
            f"| {side['steps']} | {side['setting']} |"
        )
    return [*out, ""]


def goals(part: Part, sides: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[str]:
    """A line per goal that could be judged: aim met, floor met, or missed. A peer that failed is no best peer."""
    out: list[str] = []
    own = sides.get(OURS, {})
    ran = {name: side for name, side in sides.items() if name != OURS and "rate" in side}
    if "rate" not in own or not ran:
        return out
    best = max(ran, key=lambda name: ran[name]["rate"])
    for goal in part.goals:
        over = {"best": [best], "hugging face": [name for name in HUGGING_FACE if name in ran]}.get(
            goal.over, [goal.over]
        )
        for name in [name for name in over if name in ran]:
            got = own["rate"] / ran[name]["rate"]
            said = "aim met" if got >= goal.aim else "floor met" if got >= goal.floor else "missed"
            which = " (the best peer)" if goal.over == "best" else ""
            out.append(f"- {got:.2f}x {titles[name]}{which}, floor {goal.floor}x, aim {goal.aim}x: {said}")
    limits = {name: MEMORY if name == LEANEST else 1.0 for name in (*HUGGING_FACE, LEANEST) if name in ran}
    if part.memory_of_best:
        limits = {best: part.memory_of_best}
    for name, factor in limits.items():
        met = own["peak_mb"] <= factor * ran[name]["peak_mb"] and (
            factor != 1.0 or own["peak_mb"] < ran[name]["peak_mb"]
        )
        limit = f" (at most {factor}x)" if factor != 1.0 else ""
        out.append(
            f"- peak memory {own['peak_mb']:.0f} MB against {titles[name]}'s {ran[name]['peak_mb']:.0f}{limit}: "
            + ("met" if met else "missed")
        )
    return out


def sweep(found: Mapping[str, Mapping[str, Mapping[str, Any]]], titles: Mapping[str, str]) -> list[str]:
    """A line a side: every setting that was tried, one run each, with its CPU seconds and peak memory."""
    out = []
    for name, tried in found.items():
        said = [
            f"{variant} failed ({run['error']})"
            if "error" in run
            else f"{variant} {run['train_cpu_s']:.1f} s, {run['peak_mb']} MB"
            for variant, run in tried.items()
        ]
        out.append(f"- {titles[name]}: {'; '.join(said)}")
    return ["Settings tried first, one run each:", "", *out, ""] if out else []


def page(
    title: str, reports: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], parts: Mapping[str, Part]
) -> str:
    """The dated page: a chapter for each part that was measured, with its own command, time and load."""
    data = next(iter(reports.values()))["workload"]
    out = [
        f"# {title}",
        "",
        f"Model: Llama shape, {data['shape']}, random weights. Conversations: {data['rows']}, {data['tokens']} tokens "
        f"({data['prompt_share']:.0%} prompt; median {data['median']}, longest {data['longest']}). Blocks: {data['blocks']} of "
        f"{data['block']} tokens. Preferences: {data['pairs']} pairs of HH, {data['pair_tokens']} tokens "
        f"({data['pair_prompt_tokens']} of them prompt, counted once a pair). One epoch, AdamW without decay, fp32. Interleaved; "
        "medians; CPU seconds from the start of training to the end of the last step; peak memory of the whole process until then.",
        "",
    ]
    for name, part in parts.items():
        if name not in reports:
            continue
        report = reports[name]
        host = report["machine"]
        out += [
            f"## {part.title}",
            "",
            f"`{report['command']}`, {report['date']}; {host['cpu']}, {host['cores']} cores, {host['system']}; load before "
            f"{host['load_before'][0]}, after {report['load_after'][0]}; {report['rounds']} rounds, threads: {report['threads']}, "
            f"{report['batch']} rows a step, learning rate {report['lr']:g}.",
            "",
        ]
        out += sweep(report.get("sweep", {}), titles)
        if report["rounds"]:
            out += lines(part, report["results"], titles)
            found = goals(part, report["results"], titles)
            out += [*found, ""] if found else []
    return "\n".join([*out, "## Versions", "", *versions(reports, titles)]) + "\n"


def versions(reports: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[str]:
    """A line a side."""
    known: dict[str, Mapping[str, str]] = {}
    for report in reports.values():
        for name, side in report["results"].items():
            known |= {name: side["versions"]} if "versions" in side else {}
        for name, tried in report.get("sweep", {}).items():
            known[name] = next((run["versions"] for run in tried.values() if "versions" in run), {})
    return [f"- {titles[name]}: " + ", ".join(f"{k} {v}" for k, v in side.items()) for name, side in known.items()]
