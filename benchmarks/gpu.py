"""Check and time prediction on a CUDA card, in one call, against what the card and the decoding allow.

    python benchmarks/gpu.py [--side 10980] [--model landcover-6band] [--device cuda:0]

Checks that the card gives the CPU's labels, and that a run gives the same bytes twice. Then times the network alone on
resident chips against the floor of its arithmetic and its memory traffic, the decoding alone with all cores, and the
whole command; tells how busy the card was; and lets the card run out of memory. With `--device cpu` the same script
runs without a card, on a small scene, to see that it works.
"""

import argparse
import itertools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import stages
import torch
from measure import SAMPLE, drain, run
from torch import nn

from landcover.chips import Batch
from landcover.engines import open_engine
from landcover.engines.torch import TorchEngine
from landcover.planning import Options, Plan, make_plan
from landcover.prediction import map_scene, predict
from landcover.synthetic import mosaic_scene

REPEATS = 20
CARDS = {"H100": (990e12, 3.35e12), "H200": (990e12, 4.8e12), "A100": (312e12, 2.0e12), "L4": (121e12, 0.3e12)}
"""Dense bf16 operations a second, and bytes of memory traffic a second, from the vendor's data sheets."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--model", default="landcover-6band")
    parser.add_argument("--device", default="cuda:0")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    card = torch.cuda.get_device_name(args.device) if cuda else "no card: this run only shows that the script works"
    print(f"{card}, torch {torch.__version__}\n\n| what | measured | target | met |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.tif", Path(folder) / "large.tif"
        mosaic_scene(small, SAMPLE, 2_000, 2_000)
        mosaic_scene(large, SAMPLE, args.side, args.side)
        check(small, args)
        speed(large, args, cuda)
        if cuda:
            memory(make_plan(Options(small, small.with_name("never.tif"), args.model, device=args.device)))


def row(what: str, measured: str, target: str = "", met: bool | None = None) -> None:
    print(f"| {what} | {measured} | {target} | {'' if met is None else 'yes' if met else '**no**'} |", flush=True)


def check(scene: Path, args: argparse.Namespace) -> None:
    """The same labels as the CPU, and the same bytes every time."""

    def labels(name: str, **how) -> np.ndarray:
        out = scene.with_name(name)
        predict(scene, out, model=args.model, overwrite=True, **how)
        with rasterio.open(out) as file:
            return file.read(1)

    cpu = labels("cpu.tif", device="cpu", engine="torch", precision="f32")
    for precision, most in (("f32", 1e-4), ("bf16", 1e-2)):
        card = labels(f"{precision}.tif", device=args.device, engine="torch", precision=precision)
        share = float(np.mean(card != cpu))
        row(f"labels that differ from the CPU's, {precision}", f"{share:.4%}", f"≤ {most:.2%}", share <= most)
    again = scene.with_name("bf16.tif").read_bytes()
    labels("bf16.tif", device=args.device, engine="torch", precision="bf16")
    same = scene.with_name("bf16.tif").read_bytes() == again
    row("the same bytes in a second run", "yes" if same else "no", "yes", same)


def speed(scene: Path, args: argparse.Namespace, cuda: bool) -> None:
    """The network, the decoding, and both together."""
    options = Options(scene, scene.with_name("map.tif"), args.model, device=args.device, engine="torch", overwrite=True)
    plan = make_plan(options)
    pixels = plan.grid.region.height * plan.grid.region.width
    per_pixel, why = floor_seconds(plan, args.device)
    alone = network_seconds(plan)
    times = alone / per_pixel if per_pixel else 0
    row(
        "the network alone, resident chips",
        f"{1e-6 / alone:.1f} Mpx/s, {times:.1f} × its floor ({why})" if per_pixel else f"{1e-6 / alone:.2f} Mpx/s",
        "≤ 2 ×",
        times <= 2 if per_pixel else None,
    )
    stages._decode(plan)
    began = time.perf_counter()
    stages._decode(plan)
    decoding = time.perf_counter() - began
    row("decoding alone, all cores", f"{pixels / decoding / 1e6:.1f} Mpx/s")
    with busy(args.device if cuda else None) as samples:
        began = time.perf_counter()
        drain(map_scene(plan))
        whole = time.perf_counter() - began
    slower = max(alone * pixels, decoding)
    row(
        f"end to end, {plan.grid.region.height}², in this process",
        f"{pixels / whole / 1e6:.1f} Mpx/s, {slower / whole:.0%} of the slower of both",
        "≥ 85 %",
        slower / whole >= 0.85,
    )
    if samples:
        share = statistics.mean(samples)
        limited = alone * pixels > decoding
        row("card busy while rows were mapped", f"{share:.0f} %", "≥ 90 %", share >= 90 if limited else None)
    taken = run("predict", scene, "-o", options.out, "-f", "-m", args.model, "--device", args.device)
    row("the command, from the shell", f"{taken.wall:.1f} s, {pixels / taken.wall / 1e6:.1f} Mpx/s")


def network_seconds(plan: Plan) -> float:
    """Seconds that the engine takes for each pixel of chips that are there already, nothing beside it."""
    engine = open_engine(plan.choice, plan.model, plan.scaling, plan.batch_shape, plan.scene.dtype)
    chips = torch.randint(0, 4000, plan.batch_shape, dtype=torch.int32, device=plan.choice.device)
    valid = torch.ones((len(chips), 1, *chips.shape[2:]), dtype=torch.bool, device=plan.choice.device)
    half = plan.choice.precision == "bf16"
    repeats = REPEATS if chips.is_cuda else 1

    def score() -> None:
        with torch.no_grad(), torch.autocast(chips.device.type, torch.bfloat16, enabled=half):
            engine._scorer(chips, valid)

    for _ in range(3 if chips.is_cuda else 1):
        score()
    wait(chips.device)
    began = time.perf_counter()
    for _ in range(repeats):
        score()
    wait(chips.device)
    return (time.perf_counter() - began) / repeats / (len(chips) * chips.shape[2] * chips.shape[3])


def floor_seconds(plan: Plan, device: str) -> tuple[float, str]:
    """Seconds for each pixel that the network's operations, or its tensors once in and once out, take at the least."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    card = next((figures for key, figures in CARDS.items() if key in name), None)
    operations, traffic = count(plan)
    if card is None:
        return 0.0, ""
    compute, memory = operations / card[0], traffic / card[1]
    return max(compute, memory), f"{operations / 1e3:.0f} kFLOP and {traffic:.0f} bytes a pixel"


def count(plan: Plan) -> tuple[float, float]:
    """Operations, and bytes of bf16 tensors read and written, for each pixel; convolutions alone."""
    total = [0.0, 0.0]
    side = 4 * plan.model.stride

    def look(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        each = result if isinstance(module, nn.Conv2d) else given[0]  # a transposed one multiplies what comes in
        total[0] += 2 * module.weight[0].numel() * each.numel()
        total[1] += 2 * (given[0].numel() + result.numel())

    hooks = [
        m.register_forward_hook(look)
        for m in plan.model.network.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        plan.model.network(torch.zeros(1, len(plan.scene.bands), side, side))
    for hook in hooks:
        hook.remove()
    return total[0] / side**2, total[1] / side**2


def memory(plan: Plan) -> None:
    """Let other tensors take nearly all of the card's memory; the run goes on with fewer windows at once."""
    device = torch.device(plan.choice.device)
    engine = open_engine(plan.choice, plan.model, plan.scaling, plan.batch_shape, plan.scene.dtype)
    assert isinstance(engine, TorchEngine)
    n, bands, height, width = 8, *plan.batch_shape[1:]
    dn = np.random.default_rng(0).integers(1, 4000, (n, bands, height, width)).astype(plan.scene.dtype)
    valid = np.ones((n, 1, height, width), bool)
    batch = Batch(0, range(n), dn, valid, valid[:, 0])
    torch.cuda.reset_peak_memory_stats(device)
    drain(engine.run([batch]))
    needed = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    ballast = torch.empty(max(free - needed // 2, 0), dtype=torch.uint8, device=device)
    drain(engine.run(itertools.repeat(batch, 2)))
    at_once = engine._at_once or n
    row("windows at once, of 8, with half of the memory they need", str(at_once), "fewer than 8", at_once < 8)
    del ballast


@contextmanager
def busy(device: str | None) -> Iterator[list[float]]:
    """Sample how busy the card is, in percent, while the block runs."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        number = (device or "").partition(":")[2] or "0"
        query = ["nvidia-smi", "-i", number, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while device and not over.wait(0.1):
            samples.append(float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
