"""A receiver of OTLP over HTTP and gRPC, which decodes what it gets with opentelemetry-proto."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

_REQUESTS: dict[str, Any] = {
    "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest,
    "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
}
_TIMEOUT = 20.0


class OtlpReceiver:
    """What has been received.

    Attributes:
        endpoint: the value of OTEL_EXPORTER_OTLP_ENDPOINT.
        headers: the header fields of the last request.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.headers: dict[str, str] = {}
        self._received: list[Any] = []
        self._changed = Condition()

    def add(self, request: Any, headers: dict[str, str]) -> None:
        with self._changed:
            self.headers = headers
            self._received.append(request)
            self._changed.notify_all()

    def wait_for(self, found: Callable[[], Any]) -> Any:
        """Return what a function finds in what has been received, as soon as it is true."""
        with self._changed:
            assert self._changed.wait_for(found, _TIMEOUT), "it was not received"
            return found()

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The attributes of the resources, in the order of the requests."""
        return [attributes(part.resource.attributes) for part in self._resource_metrics()]

    def _resource_metrics(self) -> list[Any]:
        return [part for one in list(self._received) for part in getattr(one, "resource_metrics", ())]

    def metrics(self, name: str) -> list[Any]:
        """Return all metrics of a name, in the order of their exports."""
        scopes = [scope for part in self._resource_metrics() for scope in part.scope_metrics]
        return [metric for scope in scopes for metric in scope.metrics if metric.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes and the points of a metric, in the order of their exports."""
        found = []
        for metric in self.metrics(name):
            data = getattr(metric, metric.WhichOneof("data"))
            found += [(attributes(point.attributes), point) for point in data.data_points]
        return found

    def values(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """Return the attributes and the values of a metric of numbers."""
        return [(one, getattr(point, point.WhichOneof("value"))) for one, point in self.points(name)]

    @property
    def names(self) -> set[str]:
        """The names of all metrics."""
        scopes = [scope for part in self._resource_metrics() for scope in part.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}

    @property
    def spans(self) -> list[Any]:
        """The spans."""
        parts = [part for one in list(self._received) for part in getattr(one, "resource_spans", ())]
        return [span for part in parts for scope in part.scope_spans for span in scope.spans]


def attributes(fields: Any) -> dict[str, Any]:
    """Return attributes of OTLP as a dict."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in fields}


@contextmanager
def receiving_over_http() -> Iterator[OtlpReceiver]:
    """Receive OTLP over HTTP in a thread, for the time of a block."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            elif self.headers.get("Content-Encoding") == "deflate":
                body = zlib.decompress(body)
            receiver.add(_REQUESTS[self.path].FromString(body), {k.lower(): v for k, v in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def receiving_over_grpc() -> Iterator[OtlpReceiver]:
    """Receive OTLP over gRPC in threads, for the time of a block."""
    receiver = OtlpReceiver()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the method of the service
            receiver.add(request, dict(context.invocation_metadata()))
            return metrics_service_pb2.ExportMetricsServiceResponse()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            receiver.add(request, dict(context.invocation_metadata()))
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
