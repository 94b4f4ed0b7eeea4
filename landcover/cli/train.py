"""`landcover train`: a recipe → a model folder."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import ModelFolder, OverwriteModel

if TYPE_CHECKING:
    from landcover.training import Trained
    from landcover.training.checkpoints import Step


def train(
    config: Annotated[Path, Argument(metavar="CONFIG", help="The recipe, a TOML file; see configs/train for some.")],
    out: ModelFolder,
    init: Annotated[
        str | None,
        Option(help="Refine this model: an embedded one's name, a model folder, or, with --folds, a folder of folds."),
    ] = None,
    folds: Annotated[
        int, Option(help="Cross-validate by place: train this many times, each time with other places held out.")
    ] = 0,
    steps: Annotated[int | None, Option(help="Train for this many steps, whatever the recipe says.")] = None,
    seed: Annotated[int | None, Option(help="The seed of all that is random, whatever the recipe says.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None, Option("--workers", "-w", help="Processes that learn together.", show_default="one a GPU")
    ] = None,
    tensorboard: Annotated[
        Path | None, Option(help="Write the curves for TensorBoard, a package to be installed, into this folder too.")
    ] = None,
    overwrite: OverwriteModel = False,
    no_resume: Annotated[bool, Option("--no-resume", help="Start over, where a run was stopped.")] = False,
    json_: Annotated[bool, Option("--json", help="Print what was measured as one JSON document.")] = False,
) -> None:
    """Train a network on labelled imagery, or refine a model for your own.

    Example: landcover train my-area.toml --init landcover-6band --out my-model, then
    landcover predict scene.tif --model my-model --out map.tif
    """
    from landcover.training import plan_training, stopped_training
    from landcover.training import train as run

    training = plan_training(
        config,
        out,
        init=init,
        folds=folds,
        device=device,
        workers=workers,
        overwrite=overwrite,
        changes={"steps": steps, "seed": seed},
    )
    with _Watch(training.legend.names, tensorboard) as watch:
        try:
            trained = run(training, resume=not no_resume, watch=watch)
        except KeyboardInterrupt:
            if kept := stopped_training(out):
                say(f"What was learned is kept in {kept}: the same command goes on from there")
            raise
    _report(trained, training.legend.names, json_=json_)


class _Watch:
    """Shows how far training is: loss, what was reached on places held out, and the time left."""

    def __init__(self, classes: tuple[str, ...], tensorboard: Path | None) -> None:
        self._classes = classes
        self._folder = tensorboard
        self._writers: dict[str, object] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._told = 0.0

    def __enter__(self) -> "_Watch":
        if self._folder is not None:
            from landcover.errors import ConfigError
            from landcover.outputs import disk_errors

            with disk_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            try:
                import torch.utils.tensorboard  # noqa: F401
            except ImportError as e:
                raise ConfigError("--tensorboard needs the package tensorboard; pip install tensorboard") from e
        return self

    def __exit__(self, *_error: object) -> None:
        for writer in self._writers.values():
            writer.close()  # type: ignore[attr-defined]

    def __call__(self, name: str, steps: int, step: "Step") -> None:
        began, first = self._began.setdefault(name, (time.monotonic(), step.number - 1))
        now = time.monotonic()
        if step.counts is None and step.number < steps and now - self._told < 10:
            return
        self._told = now
        done = step.number - first - 1  # since the clock was started, at the end of the first step
        left = f", {_duration((now - began) / done * (steps - step.number))} left" if done else ""
        reached = ""
        if step.counts is not None:
            from landcover.accuracy import macro_f1

            reached = f", macro-F1 on places held out {macro_f1(step.counts):.3f}"
        loss = "no labelled pixel" if step.loss is None else f"loss {step.loss:.3f}"
        say(f"{name}: step {step.number} of {steps}, {loss}{reached}{left}")
        self._board(name, step)

    def _board(self, name: str, step: "Step") -> None:
        if self._folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self._folder / name))
        writer = self._writers[name]
        values = {"rate": step.rate} | ({} if step.loss is None else {"loss": step.loss})
        if step.counts is not None:
            from landcover.accuracy import figures

            values |= figures(step.counts, self._classes)
        for key, value in values.items():
            writer.add_scalar(key, value, step.number)  # type: ignore[attr-defined]


def _report(trained: "Trained", classes: tuple[str, ...], *, json_: bool) -> None:
    rows = [
        (title if len(trained.results) == 1 else f"fold {k}, {title}", figures)
        for k, result in enumerate(trained.results, 1)
        for title, figures in result.accuracy.items()
    ]
    if json_:
        scores = trained.scores
        print_json(
            {
                "model": str(trained.folder),
                "macro_f1": scores and {"mean": scores[0], "spread": scores[1]},
                "accuracy": dict(rows),
            }
        )
    elif rows:
        columns = ["overall_accuracy", "macro_f1", *(f"f1_{c}" for c in classes)]
        heads = ["measured on", "accuracy", "macro-F1", *classes]
        print_table(heads, [[t, *(f"{f[c]:.3f}" if c in f else "" for c in columns)] for t, f in rows])
    if len(trained.results) > 1 and (scores := trained.scores):
        say(f"Macro-F1 on places held out: {scores[0]:.3f} ± {scores[1]:.3f} over {len(trained.results)} folds")
    say(f"Wrote {trained.folder}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
