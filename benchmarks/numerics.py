"""What bfloat16 does to each layer of a network on this CPU: the largest errors of its output and its gradients.

Errors are over float32's largest value. A layer whose error is too large, that holds memory that nobody wrote, or that
kills the process which tries it, computes in float32 in a run with precision = "auto"; scores and upsampling do in any
case. Everything is measured again, in the environment that the tuner gives to trials, and nothing is stored.

Without --set it is the network of the source recipe; on a CPU without bfloat16 arithmetic, where runs compute in
float32 and measuring would take hours, a slim one.

    python -m benchmarks.numerics --set fc_width=1024 --classes 12
"""

from __future__ import annotations

import os
import sys
import time

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

import fcn
from benchmarks.report import Report, arguments, has_bfloat16
from fcn.cli.run_config import read_config
from fcn.config import validation_sentences
from fcn.model.fcn8s import model_on_meta
from fcn.model.numerics import Finding, Layer, layers_of, measure, rounded_by_autocast

TUNABLES = "GLIBC_TUNABLES"
SLIM = ["width=0.125", "fc_width=256", "image_size=[64, 192]", "batch_size=2"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="a field of fcn.Config, in TOML")
    parser.add_argument("--classes", type=int, default=2, metavar="N", help="how many the network scores, 2 or more")
    options = parser.parse_args()
    if TUNABLES not in os.environ:
        import tuner.driver.cluster  # noqa: F401  sets what trials find; the C library reads it when a process begins

        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.numerics", *sys.argv[1:]])
    usual = SLIM if options.quick or not has_bfloat16() else []
    try:
        config, _ = read_config(["weights=none", *usual, *(options.set or [])], None, None)
    except (ValidationError, fcn.InputError) as error:
        sentences = validation_sentences(error) if isinstance(error, ValidationError) else [str(error)]
        parser.error("; ".join(sentences))
    model = model_on_meta(config, max(2, options.classes))
    images = min(config.micro_batch or config.batch_size, config.batch_size)
    layers = layers_of(model, images, *config.image_size)
    started = time.perf_counter()
    found = measure(list(dict.fromkeys(layers.values())))
    seconds = time.perf_counter() - started
    rounded = rounded_by_autocast(model, layers)
    _print(layers, found, set(rounded))

    report = Report("bfloat16 on this CPU, layer by layer")
    report.figure("all layers, their processes included", "s", seconds)
    sound = [(name, found[layer]) for name, layer in rounded.items() if not found[layer].fault]
    for what in ("output", "gradient"):
        errors = [(getattr(finding, what), name) for name, finding in sound]
        if errors:
            worst, name = max(errors)
            report.figure(
                f"largest error of {'an output' if what == 'output' else 'a gradient'}: {name}", "ratio", worst
            )
    for name, layer in layers.items():
        if found[layer].fault:
            report.missing(f"{name}, {layer}", "ratio", found[layer].fault)
    report.figure("layers that compute in bfloat16", "", len(sound))
    report.finish(options.json)


def _print(layers: dict[str, Layer], found: dict[Layer, Finding], rounded: set[str]) -> None:
    table = Table("layer", "images and layer", "output", "gradient", "verdict", title="bfloat16 against float32")
    for name, layer in layers.items():
        finding = found[layer]
        verdict = f"float32: {finding.fault}" if finding.fault else "bfloat16"
        if name not in rounded:
            verdict = f"float32 in any case{': ' if finding.fault else ''}{finding.fault}"
        errors = ["–" if error is None else f"{error:.4f}" for error in (finding.output, finding.gradient)]
        table.add_row(name, str(layer), *errors, verdict)
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    main()
