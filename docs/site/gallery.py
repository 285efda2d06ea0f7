"""The gallery, from the folder ``cards``: pictures, accuracies beside real images, cost, how to get each set."""

import io
import json

TITLES = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}


def pages(root):
    """Names and contents of the gallery's page and pictures."""
    sets = [_Set(folder) for folder in sorted((root / "cards").iterdir()) if (folder / "results.json").is_file()]
    made = []
    text = [
        "# Gallery",
        "",
        "Each picture is a whole training set. A bar is the mean test accuracy of fresh networks, its whisker their",
        "standard deviation; every set was measured beside real images that are as few.",
        "",
    ]
    for problem in sorted({one.problem for one in sets}, key=lambda problem: (-problem[2], *problem)):
        own = [one for one in sets if one.problem == problem]
        text += _section(problem, own, made)
    made.append(("gallery.md", "\n".join(text)))
    return made


class _Set:
    def __init__(self, folder):
        self.folder, self.name = folder, folder.name
        self.config = json.loads((folder / "distill_config.json").read_text(encoding="utf-8"))
        self.results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.row = self.results["architectures"]["convnet"]
        settings = self.config["settings"]
        self.problem = (settings["dataset"]["name"], self.config["ipc"], settings["network"]["width"])

    @property
    def label(self):
        """Its method, and what else its folder's name says after data set and ipc: ``rat-zca``."""
        return self.name.split("-", 2)[2]

    @property
    def is_learned(self):
        told = self.config.get("learned_here")  # older ones name their experts
        return self.config.get("experts") is not None if told is None else told

    @property
    def bytes(self):
        path = self.folder / "distilled.safetensors"
        return path.stat().st_size if path.is_file() else None


def _section(problem, sets, made):
    dataset, ipc, width = problem
    best = max((one for one in sets if one.is_learned), key=lambda one: one.row["mean"], default=None)
    if best is None:
        return []
    source = best.config["source"]
    images = "one image" if ipc == 1 else f"{ipc} images"
    size = f"{source['train_images']:,} training images, ConvNet of width {width}"
    text = [f"## {TITLES.get(dataset, dataset)}, {images} a class, width {width}", "", size + ".", ""]
    name = f"gallery/{dataset}-ipc{ipc}-width{width}.svg"
    made.append((name, _bars(sets)))
    text += [f"![test accuracy of each set]({name}){{ .chart }}", ""]
    for one in sorted(sets, key=lambda one: -one.row["mean"]):
        if not one.is_learned:
            continue
        text += _entry(one, made)
    return text


def _entry(one, made):
    row, spent = one.row, _time(sum(one.config["wall_time_seconds"].values()))
    spread = f" ± {100 * row['std']:.1f}" if row["n"] > 1 else ""
    text = [f"### {one.label} {{ #{one.name} }}", ""]
    if (one.folder / "preview.png").is_file():
        picture = f"gallery/{one.name}.png"
        made.append((picture, (one.folder / "preview.png").read_bytes()))
        text += [f"![the learned images of {one.name}]({picture}){{ .pixels loading=lazy }}", ""]
    before = one.config.get("earlier_runs", [])
    if before:
        places = " and ".join(dict.fromkeys(run["hardware"] for run in before))
        after = f" from a set that took {_time(sum(run['seconds'] for run in before))} on {places}"
    elif one.config["settings"]["distill"].get("init_from"):
        after = " after runs whose time is not in this"
    else:
        after = ""
    size = "" if one.bytes is None else f" · {one.bytes / 1000:,.0f} kB"
    text += [
        f"**{100 * row['mean']:.1f}{spread} %** of the test images · "
        f"made in {spent} on {one.config['hardware']}{after}{size}",
        "",
    ]
    tuned = one.results.get("tuned", {})
    for network, found in tuned.items():
        text += [f"`{network}` by its own recipe: {100 * found['mean']:.1f} %.", ""]
    if one.bytes is not None:
        text += ["```python", f'ds = load_distilled("cards/{one.name}")', "```", ""]
    else:
        text += ["Made again by:", "", "```", one.config["command"], "```", ""]
    return text


def _time(seconds):
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _bars(sets):
    """Accuracies of the sets and of what is beside them, as an SVG that light and dark pages can show."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "distillkit"
    from matplotlib import pyplot as plt

    rows = {one.label: (one.row["mean"], one.row["std"], one.is_learned) for one in sets}
    for one in sets:
        for name, row in one.results["baselines"].items():
            label = {"full": "all images", "random-soft": "random, soft labels"}.get(name, name)
            if label not in rows or name == "full":
                rows.setdefault(label, (row["mean"], row["std"], False))
    order = sorted(rows, key=lambda name: rows[name][0])
    grey, figure = "#888888", plt.figure(figsize=(7, 0.34 * len(order) + 0.7))
    axes = figure.add_subplot()
    colours = ["#00897b" if rows[name][2] else "#b0b8b8" for name in order]
    axes.barh(
        order,
        [100 * rows[name][0] for name in order],
        xerr=[100 * rows[name][1] for name in order],
        color=colours,
        ecolor=grey,
        capsize=2,
    )
    for place, name in enumerate(order):
        axes.text(
            1, place, f"{100 * rows[name][0]:.1f}", va="center", color="white" if rows[name][2] else "#202020", size=8
        )
    axes.set_xlim(0, 100)
    axes.set_xlabel("test accuracy (%)", color=grey)
    axes.tick_params(colors=grey)
    for side, line in axes.spines.items():
        line.set_visible(side in ("left", "bottom"))
        line.set_color(grey)
    content = io.BytesIO()
    figure.savefig(content, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return content.getvalue()
