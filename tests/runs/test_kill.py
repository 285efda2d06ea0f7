"""kill -9 at random moments, in the middle of experts and of distillation: the bytes are those of a whole run."""

import contextlib
import os
import random
import subprocess
import sys
import time

import pytest

from tests.helpers import TINY

CHANGES = {"experts.count": 24, "experts.epochs": 10, "dataset.max_train": 600, "network.width": 16}
CHANGES |= {"distill.outer_steps": 500, "distill.select_every": 250, "distill.checkpoint_every": 7}
KILLS_PER_STAGE = 2


def start(out, cache):
    settings = {**TINY, **CHANGES}
    words = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    code = "import torch; torch.set_num_threads(1); from distillkit.cli import main; main()"
    command = [sys.executable, "-c", code, "compress", "digits", "--ipc", "1", "--preset", "smoke", "--device", "cpu"]
    environment = {**os.environ, "DISTILLKIT_CACHE": str(cache)}
    command += ["--out", str(out), *words]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def finish(running):
    errors = running.communicate(timeout=300)[1]
    assert running.returncode == 0, errors


def experts(cache):
    return len(list((cache / "experts").glob("*/expert-*.json")))


def steps(out):
    path = out / "run" / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def touched(out):
    path = out / "run" / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else None


def kill_after(running, ready, delay):
    """True if the process was killed, False if it had ended before."""
    deadline = time.monotonic() + 240
    while running.poll() is None and not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(delay)
    if running.poll() is not None:
        return False
    running.kill()
    running.communicate()
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9__in_every_stage_at_random_moments(tmp_path):
    whole = start(tmp_path / "whole", tmp_path / "cache-of-whole")
    finish(whole)
    seed = int(os.environ.get("DISTILLKIT_KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"DISTILLKIT_KILL_SEED={seed} makes the same kills")
    dice, out, cache = random.Random(seed), tmp_path / "killed", tmp_path / "cache-of-killed"
    kills = []
    for _ in range(KILLS_PER_STAGE):
        before = experts(cache)
        running = start(out, cache)
        assert kill_after(running, lambda before=before: experts(cache) > before, dice.uniform(0, 0.4))
        kills.append(("experts", experts(cache)))
    assert kills[-1][1] < CHANGES["experts.count"], f"experts were over before the kills were: {kills}"
    for _ in range(KILLS_PER_STAGE):
        before = touched(out)
        running = start(out, cache)
        assert kill_after(running, lambda before=before: touched(out) != before, dice.uniform(0, 1.5))
        kills.append(("distillation", steps(out)))
    assert not (out / "run" / "synthetic.safetensors").exists(), f"distillation was over before the kills were: {kills}"
    finish(start(out, cache))
    for name in ("distilled.safetensors", "preprocess.safetensors", "recipe.json", "results.json", "curves.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, kills)
    assert not [*out.rglob("*.tmp"), *cache.rglob("*.tmp")]
    print(f"killed at {kills}")
