"""One run by several processes: are the bytes the same, how much faster is it, what is sent?

    python examples/benchmarks/processes.py bytes --data-root DIR       # 1, 2 and 4 processes, methods, S = 1, 2, 4, 5
    python examples/benchmarks/processes.py speed --data-root DIR       # 2 processes of one thread against 1
    python examples/benchmarks/processes.py caches                      # two hosts with a cache each, on loopback
    python examples/benchmarks/processes.py kills                       # 20 SIGKILLs of one of two, torchrun restarts

``speed`` needs two idle cores. ``caches`` lays two network namespaces with a cable between them (root; ``--plain`` does
without: two processes with separate caches).
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measuring import machine, table, write

from distillkit.lab import RunFolder, effective

TINY = {
    "dataset.max_train": 400,
    "network.width": 4,
    "experts.count": 5,
    "experts.epochs": 3,
    "distill.outer_steps": 3,
    "distill.inner_steps": 2,
    "distill.expert_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.select_every": 2,
    "distill.checkpoint_every": 1,
    "distill.picture_every": 5,
    "distill.lr_img": 10.0,
    "evaluate.networks": 3,
    "evaluate.epochs": 2,
    "evaluate.full_epochs": 1,
}
OWN = {
    "mct": {"experts.epochs": 4, "trajectories.waypoint_epochs": [0, 2, 4]},
    "rat": {"distill.horizon": 4, "distill.lr_img": 0.01},
    "dsa": {"distill.restart_every": 3},
}
METHODS = ("mtt", "ast", "mct", "pad", "rat", "dsa", "dm", "datm")
SEGMENTS = (1, 2, 4, 5)
NAMESPACES = ("distillkit0", "distillkit1")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(rank, size, jobs, cache, port, address="127.0.0.1", prefix=()):
    """A process of a world that makes ``jobs``, one after the other."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DISTILLKIT_CACHE": str(cache)}
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    environment |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    if prefix:
        environment["GLOO_SOCKET_IFNAME"] = f"cable{rank}"
    line = [*prefix, sys.executable, __file__, "work", "--jobs", str(jobs)]
    return subprocess.Popen(line, env=environment)


def work(path):
    """What a process of a world does; the first one writes what it measured beside each set."""
    from distillkit import compress, joined

    with joined() as world:
        for job in json.loads(path.read_text()):
            before, begin = world.link.sent_bytes if world.link else 0, time.perf_counter()
            compress(
                job["dataset"],
                ipc=job["ipc"],
                method=job["method"],
                preset="smoke",
                settings=job["settings"],
                out=job["out"],
                device="cpu",
                command="distillkit compress",
                world=world,
            )
            if world.leads:
                sent = (world.link.sent_bytes if world.link else 0) - before
                told = {"seconds": time.perf_counter() - begin, "sent_bytes": sent}
                Path(job["out"], "run", "measured.json").write_text(json.dumps(told))


def world_of(size, jobs, folder, caches=None):
    """Run ``jobs`` by so many processes."""
    path, port = folder / "jobs.json", free_port()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(jobs))
    started = [start(rank, size, path, (caches or {}).get(rank, folder / "cache"), port) for rank in range(size)]
    codes = [one.wait() for one in started]
    if any(codes):
        raise SystemExit(f"a run of {size} processes failed")


def digest(out):
    """Of everything that must not depend on how many processes there were: checkpoint, set, results."""
    found = hashlib.sha256()
    for name in ("distilled.safetensors", "run/checkpoint.safetensors", "results.json", "recipe.json"):
        found.update(Path(out, name).read_bytes())
    return found.hexdigest()[:16]


def same_bytes(args, work_folder):
    rows, found = [], {}
    problems = [("digits", {})]
    if args.cifar_only:
        problems = []
    if args.data_root:
        small = {"dataset.data_root": args.data_root, "dataset.max_train": 500, "network.depth": 2}
        problems.append(("cifar10", small))
    names = [
        (dataset, own, method, count) for dataset, own in problems for method in args.methods for count in SEGMENTS
    ]
    for size in (1, 2, 4):
        folder = work_folder / f"world{size}"
        jobs = [
            {
                "dataset": dataset,
                "ipc": 1,
                "method": method,
                "settings": effective(
                    TINY | own | OWN.get(method, {}) | {"distill.segments": count}, dataset, 1, method, "smoke"
                ),
                "out": str(folder / f"{dataset}-{method}-{count}"),
            }
            for dataset, own, method, count in names
        ]
        world_of(size, jobs, folder)
        for job, (dataset, _, method, count) in zip(jobs, names, strict=True):
            found.setdefault((dataset, method, count), []).append(digest(job["out"]))
    for dataset, _ in problems:
        for method in args.methods:
            equal = ["same" if len({*found[dataset, method, count]}) == 1 else "DIFFER" for count in SEGMENTS]
            rows.append([dataset, method, *equal])
    text = table(["data", "method", *(f"S = {count}" for count in SEGMENTS)], rows)
    facts = {f"{dataset} {method} S={count}": value for (dataset, method, count), value in found.items()}
    return facts, "Bytes of checkpoint, set and results by 1, 2 and 4 processes (5 experts):\n\n" + text


def speed(args, work_folder):
    settings = TINY | {
        "network.width": 32,
        "network.depth": 3,
        "dataset.max_train": 4000,
        "experts.count": 4,
        "experts.epochs": 3,
        "distill.outer_steps": 12,
        "distill.inner_steps": 10,
        "distill.segments": 2,
        "distill.select_every": 12,
        "distill.select_networks": 1,
        "evaluate.networks": 2,
        "evaluate.baselines": [],
    }
    if args.data_root:
        settings["dataset.data_root"] = args.data_root
    dataset, seconds = ("cifar10" if args.data_root else "digits"), {1: [], 2: []}
    sent = 0
    for turn in range(args.rounds):
        for size in (1, 2):
            folder = work_folder / f"speed{turn}-{size}"
            job = {"dataset": dataset, "ipc": 1, "method": "mtt", "settings": settings, "out": str(folder / "set")}
            shutil.copytree(work_folder / "decoded", folder / "cache") if (work_folder / "decoded").exists() else None
            world_of(size, [job], folder)
            told = RunFolder(folder / "set").seconds()
            rows = [json.loads(line) for line in (folder / "set" / "run" / "metrics.jsonl").read_text().splitlines()]
            steps = [row["seconds"] for row in rows if "seconds" in row][1:]
            seconds[size].append({"experts": told["experts"], "step": statistics.median(steps)})
            sent = json.loads((folder / "set" / "run" / "measured.json").read_text())["sent_bytes"]
            if not (work_folder / "decoded").exists():
                shutil.copytree(folder / "cache" / "data", work_folder / "decoded" / "data")
    text, facts = [], {"seconds": {str(size): values for size, values in seconds.items()}, "sent_bytes": sent}
    for what in ("experts", "step"):
        ratios = [one[what] / two[what] for one, two in zip(seconds[1], seconds[2], strict=True)]
        each = {size: statistics.median(row[what] for row in seconds[size]) for size in seconds}
        facts[f"{what}_ratio"] = statistics.median(ratios)
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        text.append([what, f"{each[1]:.2f}", f"{each[2]:.2f}", f"**{statistics.median(ratios):.2f}**", shown])
    heads = ["seconds of", "1 process", "2 processes", "ratio", "all rounds"]
    steps = settings["distill.outer_steps"]
    traffic = f"\n\nThe first process sent {sent / 1e6:.2f} MB in all, over {steps} steps of S = 2."
    return facts, table(heads, text) + traffic


def separate_caches(args, work_folder):
    """Two processes whose caches know nothing of each other: experts are sent."""
    job = {"dataset": "digits", "ipc": 1, "method": "mtt", "settings": TINY | {"distill.segments": 2}}
    alone, two = work_folder / "alone", work_folder / "two"
    world_of(1, [job | {"out": str(alone / "set")}], alone)
    jobs, port = two / "jobs.json", free_port()
    two.mkdir()
    jobs.write_text(json.dumps([job | {"out": str(two / "set")}]))
    if args.plain:
        started = [start(rank, 2, jobs, two / f"cache{rank}", port) for rank in (0, 1)]
    else:
        started = _in_namespaces(jobs, two, port)
    codes = [one.wait() for one in started]
    for name in NAMESPACES if not args.plain else ():
        subprocess.run(["ip", "netns", "delete", name], check=True)
    if any(codes):
        raise SystemExit("the run of two hosts failed")
    experts = [len(list((two / f"cache{rank}" / "experts").glob("*/expert-????.json"))) for rank in (0, 1)]
    same = digest(alone / "set") == digest(two / "set")
    hosts = "two processes" if args.plain else "two network namespaces"
    facts = {"hosts": hosts, "same": same, "experts": experts}
    return (
        facts,
        f"{hosts}, a cache each: {'same bytes as one process' if same else 'BYTES DIFFER'}; experts in {experts}",
    )


def kills(args, work_folder):
    """SIGKILL of one of two processes at random moments; torchrun begins them again, until the set is there."""
    settings = TINY | {
        "experts.count": 30,
        "experts.epochs": 6,
        "network.width": 16,
        "dataset.max_train": 900,
        "distill.outer_steps": 600,
        "distill.select_every": 200,
        "distill.checkpoint_every": 7,
        "distill.segments": 2,
    }
    alone, killed, dice = work_folder / "alone", work_folder / "killed", random.Random(args.seed)
    job = {"dataset": "digits", "ipc": 1, "method": "mtt", "settings": settings}
    world_of(1, [job | {"out": str(alone / "set")}], alone)
    jobs = killed / "jobs.json"
    killed.mkdir()
    jobs.write_text(json.dumps([job | {"out": str(killed / "set")}]))
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1000"]
    line += ["--master-port", str(free_port()), __file__, "work", "--jobs", str(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DISTILLKIT_CACHE": str(killed / "cache")}
    running, told = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True), []
    threading.Thread(target=lambda: told.extend(running.stderr), daemon=True).start()
    where, victims, before = [], [], _progress_of(killed)
    while running.poll() is None and len(where) < args.kills:
        time.sleep(0.05)
        workers, now = _children(running.pid), _progress_of(killed)
        if len(workers) < 2 or workers == victims or now == before:
            continue
        time.sleep(dice.uniform(0, 3))
        rank, victims, before = dice.randrange(2), workers, _progress_of(killed)
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[rank], signal.SIGKILL)
            where.append((rank, before))
    code = running.wait()
    same = code == 0 and digest(alone / "set") == digest(killed / "set")
    left = [str(path.relative_to(killed)) for path in killed.rglob("*.tmp")]
    text = f"{len(where)} kills: {'same bytes' if same else f'BYTES DIFFER (exit status {code})'}, left over: {left}\n"
    return {"kills": where, "same": same, "left_over": left}, text + f"rank and progress at each: {where}"


def _children(process):
    path = Path(f"/proc/{process}/task/{process}/children")
    return sorted(int(child) for child in path.read_text().split()) if path.exists() else []


def _progress_of(folder):
    metrics = folder / "set" / "run" / "metrics.jsonl"
    if metrics.exists():
        return f"step {metrics.read_text().count(chr(10))}"
    return f"{len(list((folder / 'cache').glob('experts/*/expert-????.json')))} experts"


def _in_namespaces(jobs, folder, port):
    """Two hosts, as far as the network goes: 10.77.0.1 and 10.77.0.2, a cable between them."""
    names = NAMESPACES
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    cable = ["ip", "link", "add", "cable0", "netns", names[0], "type", "veth", "peer", "cable1", "netns", names[1]]
    subprocess.run(cable, check=True)
    for rank, name in enumerate(names):
        inside = ["ip", "-n", name]
        subprocess.run([*inside, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", f"cable{rank}"], check=True)
        subprocess.run([*inside, "link", "set", f"cable{rank}", "up"], check=True)
        subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
    return [
        start(rank, 2, jobs, folder / f"cache{rank}", port, "10.77.0.1", ("ip", "netns", "exec", name))
        for rank, name in enumerate(names)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bytes", "speed", "caches", "kills", "work"])
    parser.add_argument("--data-root", help="folder of local copies of registered data sets")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS, help="bytes: of these")
    parser.add_argument("--cifar-only", action="store_true", help="bytes: without digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="caches: no network namespaces")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="kills: of the dice")
    parser.add_argument("--out", help="write OUT.json and OUT.md")
    parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "work":
        work(args.jobs)
        return
    measure = {"bytes": same_bytes, "speed": speed, "caches": separate_caches, "kills": kills}[args.what]
    with tempfile.TemporaryDirectory() as folder:
        facts, text = measure(args, Path(folder))
    write(args.out, facts | {"machine": machine("cpu", args.what)}, text)


if __name__ == "__main__":
    main()
