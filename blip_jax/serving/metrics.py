"""Metrics of the server, in Prometheus' text format."""

import jax
import prometheus_client as prometheus

from blip_jax.serving.batcher import BatchReport

# JAX reports the seconds that each program took to compile, or to be read from its cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What is counted; a registry of its own, so that a process can hold several servers."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        registry = {"registry": self.registry}
        self.requests = prometheus.Counter(
            "blip_requests", "Responses", ["path", "status"], **registry
        )
        self.request_seconds = prometheus.Histogram(
            "blip_request_seconds", "From a request's begin to its response", ["path"],
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.in_flight = prometheus.Gauge(
            "blip_requests_in_flight", "Requests read, waiting or computed", **registry
        )
        self.waiting = prometheus.Gauge("blip_rows_waiting", "Rows that wait", **registry)
        self.wait_seconds = prometheus.Histogram(
            "blip_row_wait_seconds", "From a row's arrival to the begin of its batch",
            ["function"], buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.batch_rows = prometheus.Histogram(
            "blip_batch_rows", "Rows of a batch, without padding", ["function"], buckets=_ROWS,
            **registry,
        )  # fmt: skip
        self.batch_seconds = prometheus.Histogram(
            "blip_batch_seconds", "Time that a batch took", ["function"], buckets=_SECONDS,
            **registry,
        )  # fmt: skip
        self.longest_batch = prometheus.Gauge(
            "blip_longest_batch_seconds", "Time of the longest batch since the start",
            ["function"], **registry,
        )  # fmt: skip
        self._longest: dict[str, float] = {}
        self.compilations = prometheus.Counter(
            "blip_compilations", "Programs compiled, or read from the cache", **registry
        )
        self.ready = prometheus.Gauge("blip_ready", "Whether requests are taken", **registry)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def report_batch(self, report: BatchReport) -> None:
        """Counts a batch."""
        for wait in report.waits:
            self.wait_seconds.labels(report.function).observe(wait)
        self.batch_rows.labels(report.function).observe(len(report.waits))
        self.batch_seconds.labels(report.function).observe(report.duration)
        longest = max(self._longest.get(report.function, 0.0), report.duration)
        self._longest[report.function] = longest
        self.longest_batch.labels(report.function).set(longest)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)

    def _on_duration(self, event: str, seconds: float, **unused) -> None:
        if event == _COMPILED:
            self.compilations.inc()
