"""What each function of the server costs by rows of a batch, and a request outside of the device.

    python tests/bench/serve_parts.py [--model small] [--image-size 64] [--functions "match 4"]

Models with random weights; CPU seconds are of this process, of all its threads. A function gains
by batching what its CPU seconds a row become less; cores are how many it keeps busy.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measured(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Returns seconds and CPU seconds of a call, in the mean of `seconds` of calls."""
    call()
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while count < 3 or time.perf_counter() - start < seconds:
        call()
        count += 1
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def print_functions(service, names: list[str], seconds: float) -> None:
    """Prints a line of each function and batch size; no names: of all."""
    print("| function | rows | s | CPU s a row | cores | gain in CPU s |")
    print("|---|---|---|---|---|---|")
    for name, function in service.functions.items():
        if names and name not in names:
            continue
        alone = 0.0
        for size in function.sizes:
            function.warm_up(size)
            rows = [function._example] * size
            took, cpu = measured(lambda f=function, rows=rows: f(rows), seconds)
            alone = alone or cpu
            print(
                f"| {name} | {size} | {took:.4f} | {cpu / size:.4f} | {cpu / took:.1f} | "
                f"{alone * size / cpu:.2f} |", flush=True,
            )  # fmt: skip


def print_request(service, sent, seconds: float) -> None:
    """Prints what a request costs besides its functions: JSON, image, rows."""
    path, body = sent
    endpoint, model = service.endpoints[path], service.models[path]
    request = endpoint.Request.model_validate_json(body)
    loop = asyncio.new_event_loop()

    def read():
        size, upright = model.image_size, model.config.exif_orientation
        return loop.run_until_complete(service._images.read(request.images, size, upright))

    images = read()
    parts = {
        "JSON and its check": lambda: endpoint.Request.model_validate(json.loads(body)),
        "image": read,
        "rows": lambda: endpoint.rows(request, images),
    }
    for name, call in parts.items():
        took, cpu = measured(call, seconds)
        print(f"{path}, {name}: {took * 1000:.2f} ms, {cpu * 1000:.2f} CPU ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("small", "base"), default="small")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--functions", nargs="*", default=[], help='as "match 4"; none: all')
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import serve_load

    from blip_jax import models
    from blip_jax.serving.config import ServeConfig
    from blip_jax.serving.service import Service

    with tempfile.TemporaryDirectory() as folder:
        paths = serve_load.build_models(pathlib.Path(folder), args.model, args.image_size)
        service = Service([models.load(str(path)) for path in paths], ServeConfig(max_tokens=24))
        print_functions(service, args.functions, args.seconds)
        seen = set()
        for sent in itertools.islice(serve_load.requests(args.image_size, "all"), 7):
            if sent.path not in seen:
                seen.add(sent.path)
                print_request(service, sent, args.seconds)


if __name__ == "__main__":
    main()
