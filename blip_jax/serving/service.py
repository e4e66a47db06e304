"""The models of a server, and the way of a request through them."""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from blip_jax.models import Model
from blip_jax.runtime.errors import DIVERGED, UserError
from blip_jax.serving.batcher import Batcher
from blip_jax.serving.config import ServeConfig
from blip_jax.serving.endpoints import ENDPOINTS, Endpoint
from blip_jax.serving.images import ImageReader
from blip_jax.serving.metrics import Metrics
from blip_jax.serving.programs import BatchFunction, has_nan

MAX_COMPILERS = 8  # programs that are compiled at the same time


class ModelFailed(Exception):
    """A model computes no numbers for a request."""


class Service:
    """Models behind endpoints; an endpoint has the first model that is able.

    Attributes:
      config: its settings.
      metrics: what it counts.
      endpoints: by path, those that a model serves.
      models: of the endpoints, by path.
      ready: whether all programs are compiled.
      draining: whether it takes no further requests.
      failure: what ended the warm-up; None: nothing has.
      in_flight: requests that are read, waiting or computed.
    """

    def __init__(self, models: Sequence[Model], config: ServeConfig):
        self.config, self.metrics = config, Metrics()
        self.models: dict[str, Model] = {}
        self.endpoints: dict[str, Endpoint] = {}
        for kind in ENDPOINTS:
            model = next((model for model in models if model.can(kind.capability)), None)
            if model is not None:
                self.models[kind.path] = model
                self.endpoints[kind.path] = kind(model, config)
        for model in models:
            if model not in self.models.values():
                able = ", ".join(self.endpoints) or "caption, match, answer and encode"
                raise UserError(
                    f"model {model.name} would serve nothing: {able} are served by models before "
                    f"it, or need another type than {model.model_type}; leave it out"
                )
        self.functions: dict[str, BatchFunction] = {}
        for endpoint in self.endpoints.values():
            self.functions |= endpoint.functions
        self._batcher = Batcher(
            self.functions, config.max_wait_ms / 1000, config.max_queue, self.metrics.report_batch
        )
        self.metrics.waiting.set_function(lambda: self._batcher.waiting)
        self.metrics.in_flight.set_function(lambda: self.in_flight)
        self.metrics.ready.set_function(lambda: self.ready and not self.draining)
        self._compilers = ThreadPoolExecutor(min(MAX_COMPILERS, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="read")
        self._images = ImageReader(config, self._pool)
        self.ready, self.draining, self.in_flight = False, False, 0
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Compiles all programs in a thread; `ready` or `failure` tell when it is done."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            pairs = [(f, size) for f in self.functions.values() for size in f.sizes]
            list(self._compilers.map(lambda pair: pair[0].warm_up(pair[1]), pairs))
        except BaseException as error:  # raised by `serve` in the main thread
            self.failure = error
            return
        self._batcher.start()
        self.ready = True

    async def close(self) -> None:
        """Computes what was accepted, and ends the threads; a warm-up begins no further program."""
        self._compilers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._batcher.close)
        await self._images.close()
        self._pool.shutdown()

    async def answer(self, path: str, request: Any) -> Any:
        """Returns the response to a request.

        Raises:
          ImageError, UserError: the request asks for what cannot be.
          QueueFull: too many rows wait.
          ModelFailed: its results are NaN.
        """
        endpoint, model = self.endpoints[path], self.models[path]
        if len(request.images) > self.config.max_images:
            raise UserError(f"{len(request.images)} images; give at most {self.config.max_images}")
        pixels = await self._images.read(
            request.images, model.image_size, model.config.exif_orientation
        )
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self._pool, endpoint.rows, request, pixels)
        futures = [asyncio.wrap_future(future) for future in self._batcher.submit(rows)]
        try:
            results = await asyncio.gather(*futures)
        finally:  # gather cancels them if it is cancelled, but not if one of them fails
            for future in futures:
                future.cancel()
        if any(map(has_nan, results)):
            raise ModelFailed(f"{model.name or 'the model'} gives NaN; {DIVERGED}")
        return endpoint.response(request, results)
