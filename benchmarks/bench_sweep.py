"""A small sweep of a LLaMA 3 8B through Dagster, as `synthpost run` drives it: what each run took, and the lease.

    .venv/bin/python benchmarks/bench_sweep.py --results benchmarks/results/bench_sweep.json
    .venv/bin/python benchmarks/bench_sweep.py --device cpu --shape small

Two data sizes × two lengths of training (`--steps`), 110 evaluation prompts; the student is a checkpoint of the model's
shape with random weights, the teacher the embedded model, the judge the rubric. Meanwhile it looks every half second
whether the device's lease is held and how many processes have memory on the GPU.

Prints a table of the runs and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml
from bench_training import machine
from random_llama import SHAPES, make_checkpoint

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the package is this checkout's, installed or not
SIZES, PROMPTS, NEW_TOKENS = (88, 176), 110, 128
LOOKS_SECONDS = 0.5

Record = dict[str, Any]


def student(checkpoint: Path, shape: str, device: str, folder: Path) -> Path:
    """The checkpoint's weights with the embedded model's tokenizer, which knows the task's words."""
    from transformers import AutoTokenizer

    from synthpost_dagster.embedded import MODEL_FOLDER

    make_checkpoint(checkpoint, shape, device)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    tokenizer.save_pretrained(folder)
    for file in checkpoint.glob("model*"):
        (folder / file.name).symlink_to(file.resolve())
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text(json.dumps(json.loads((checkpoint / name).read_text()) | ids))
    return folder


def written(options: argparse.Namespace, model: Path, folder: Path) -> tuple[Path, Path]:
    """A task and a profile for the sweep."""
    from synthpost_dagster.profiles import FOLDER
    from synthpost_dagster.tasks.loading import PACKAGED

    task = folder / "task"
    shutil.copytree(PACKAGED / "sales_posts", task)
    content = yaml.safe_load((task / "task.yaml").read_text())
    content["sweep"] = {"data_sizes": list(SIZES), "steps": options.steps}
    (task / "task.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    tiny = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    profile = {
        "extends": "llama3-8b",
        "name": "bench_sweep",
        "teacher": tiny["teacher"],
        "student": {"model": str(model), "revision": None, "quantization": options.quantization, "memory_gib": 1.0},
        "predictions": {"max_new_tokens": NEW_TOKENS},
        "judges": [{"backend": "rubric"}],
        "budget": None,
        "device": {"device": options.device, "max_concurrent_runs": options.slots},
        "sweep": {"data_sizes": list(SIZES), "steps": options.steps},
        "evaluation_prompts": PROMPTS,
        "allow_untrained_task": True,
    }
    if options.device == "cpu":
        profile["training"] = {"precision": "float32", "optimizer": "adamw_torch"}
        profile["student"] |= {"dtype": "float32"}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    return task, folder / "profile.yaml"


class Looks:
    """Looks at the device's locks and processes until it is stopped."""

    def __init__(self, device: str, slots: int) -> None:
        from synthpost_dagster.runtime.devices import LOCK_FOLDER, Devices

        (found,) = Devices(device).candidates()[:1]
        self._locks = [LOCK_FOLDER / f"{found.uuid}-{slot}.lock" for slot in range(slots)]
        self._device, self._over = device, threading.Event()
        self.looks, self.held, self.most_processes = 0, 0, 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> Record:
        """What was seen."""
        self._over.set()
        self._thread.join()
        return {"looks": self.looks, "lease_held": self.held, "most_processes_on_gpu": self.most_processes}

    def _look(self) -> None:
        from filelock import FileLock, Timeout

        while not self._over.wait(LOOKS_SECONDS):
            self.looks += 1
            for lock in self._locks:
                try:
                    FileLock(lock).acquire(timeout=0).lock.release()
                except Timeout:
                    self.held += 1
            if self._device != "cpu":
                command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
                listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
                self.most_processes = max(self.most_processes, len(set(listed) - {str(os.getpid())}))


def runs_of(home: Path) -> list[Record]:
    """Every run that Dagster has recorded, in order, with its seconds."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home / "dagster")) as instance:
        records = instance.get_run_records(ascending=True)
    return [
        {
            "configuration": f"{record.dagster_run.job_name} {record.dagster_run.tags.get('dagster/partition', '')}",
            "status": record.dagster_run.status.value,
            "seconds": round((record.end_time or 0.0) - (record.start_time or 0.0), 1),
        }
        for record in records
    ]


def trainings_of(home: Path) -> list[Record]:
    """What the manifests of adapters and predictions say of the time."""
    found = []
    for asset in ("adapters", "predictions"):
        for file in sorted((home / "storage" / asset).glob("*/*/manifest.json")):
            manifest = json.loads(file.read_text())
            names = ("optimizer_steps", "layout", "wall_seconds", "general_text_seconds", "peak_gib")
            names += ("mean_completion_tokens",)
            facts = {name: manifest["facts"][name] for name in names if name in manifest["facts"]}
            found.append({"asset": asset, "cell": manifest["partition"], **facts})
    return found


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="where the random weights are or go; else a temporary folder")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama3-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, nargs=2, default=[200, 400], help="the two lengths")
    parser.add_argument("--slots", type=int, default=1, help="sweeps at a time on the device")
    parser.add_argument("--quantization", choices=("none", "nf4"), default="nf4")
    parser.add_argument("--results", type=Path, help="where the JSON line goes as well")
    return parser.parse_args()


def main() -> None:
    """Runs the sweep and tells."""
    options, facts = options_of(), machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "student").mkdir()
        model = student(options.checkpoint or folder / "checkpoint", options.shape, options.device, folder / "student")
        task, profile = written(options, model, folder)
        command = [sys.executable, "-m", "synthpost_dagster.cli", "run", "--task", task, "--profile", profile]
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        looks, started = Looks(options.device, options.slots), time.perf_counter()
        status = subprocess.run(
            [*map(str, command), "--home", str(folder / "home")], env={**os.environ, "PYTHONPATH": path}, check=False
        ).returncode
        seconds, seen = time.perf_counter() - started, looks.stop()
        records, trainings = runs_of(folder / "home"), trainings_of(folder / "home")
    for record in records:
        print(f"{record['configuration']:24} {record['status']:10} {record['seconds']:7.1f} s")
    for training in trainings:
        print("  ".join(str(value) for value in training.values()))
    whole = {"exit": status, "seconds": round(seconds, 1), **seen}
    print(whole)
    line = json.dumps({"machine": facts, **whole, "records": records, "trainings": trainings})
    print(line)
    if options.results:
        options.results.write_text(f"{line}\n")


if __name__ == "__main__":
    main()
