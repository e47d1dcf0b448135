"""Pictures of comparisons: every engine's speed relative to the best of the others, or to PyTorch on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "clconv": "#d1495b",
    "onnxruntime": "#30638e",
    "openvino": "#00798c",
    "torch": "#edae49",
    "torch channels-last": "#b5852b",
    "PyTorch float32": "#30638e",
    "PyTorch tf32": "#00798c",
    "PyTorch float16": "#edae49",
    "floor": "#999999",
}


def draw(content: dict[str, Any], path: Path) -> None:
    """Writes the picture, where Matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    rows = [row for row in content["rows"] if row["engines"]]
    names = list(dict.fromkeys(engine for row in rows for engine in row["engines"]))
    height = 0.8 / max(1, len(names))
    figure = Figure(figsize=(9, 1.6 + len(rows) * (0.25 + 0.17 * len(names))), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        peers = {name: each["ms"] for name, each in row["engines"].items() if name != "clconv"}
        best = min((peers or {name: each["ms"] for name, each in row["engines"].items()}).values())
        for i, name in enumerate(names):
            if name not in row["engines"]:
                continue
            ms, at = row["engines"][name]["ms"], place + (i - (len(names) - 1) / 2) * height
            axes.barh(at, best / ms, 0.9 * height, color=COLOURS[name], label=name if place == 0 else None)
            label = f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
            style = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.annotate(
                label, (best / ms, at), (4, 0), textcoords="offset points", va="center", fontsize=7, bbox=style
            )
    axes.axvline(1, color="#444444", linewidth=0.8, zorder=0.5)
    axes.set_yticks(range(len(rows)), [f"{row['network']}, {row['batch']}" for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("speed, the best of the others = 1")
    what = "training step" if content["what"] == "train" else "prediction"
    device, machine = content["device"], content["machine"]
    title = f"{what}, images per run after the network's name, {machine['threads']} threads, float32"
    axes.set_title(f"{title}\n{machine['processor']}; clconv on {device['platform']} {device['driver']}", fontsize=9)
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=len(handles))
    figure.savefig(path, dpi=130)


def draw_gpu(content: dict[str, Any], path: Path) -> None:
    """Writes the picture of `benchmarks.gpu`, where Matplotlib is installed: a dot for each figure, a line for each
    layer and network, side by side for each batch; speeds relative to PyTorch in float32, or without it to the floor.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    batches = sorted({row["batch"] for row in content["rows"]})
    base = "PyTorch float32" if content["modes"] else "floor"
    places: dict[str, int] = {}
    dots: dict[tuple[int, str], list[tuple[float, int]]] = {}
    for row in content["rows"]:
        for name, own in row["clconv"].items():
            place = places.setdefault(f"{row.get('layer') or row['network']}, {name}", len(places))
            times = {f"PyTorch {mode}": row["torch"][mode][name] for mode in content["modes"] if mode in row["torch"]}
            times |= {"clconv": own["ms"], "floor": own["floor_ms"]}
            for engine, ms in times.items():
                if ms and times.get(base):
                    dots.setdefault((row["batch"], engine), []).append((times[base] / ms, place))
    figure = Figure(figsize=(3 + 4.5 * len(batches), 2 + 0.2 * len(places)), layout="constrained")
    for axes, batch in zip(figure.subplots(1, len(batches), sharey=True, squeeze=False)[0], batches, strict=True):
        for engine in ("floor", "PyTorch float32", "PyTorch tf32", "PyTorch float16", "clconv"):
            if found := dots.get((batch, engine)):
                axes.scatter(*zip(*found, strict=True), s=22, color=COLOURS[engine], label=engine, zorder=2)
        axes.axvline(1, color="#444444", linewidth=0.8, zorder=1)
        axes.set_xscale("log")
        axes.grid(axis="y", color="#eeeeee", zorder=0)
        axes.set_yticks(range(len(places)), places, fontsize=7)
        axes.set_title(f"batch of {batch}", fontsize=9)
        axes.set_xlabel(f"speed, {base} = 1", fontsize=8)
    axes.invert_yaxis()
    figure.suptitle(
        f"{content['device']['name']}, {content['device']['platform']} {content['device']['driver']}", fontsize=9
    )
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=max(1, len(handles)))
    figure.savefig(path, dpi=130)
