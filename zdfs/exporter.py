"""The door to Prometheus: a process's measures as text over HTTP (`--metrics PORT`).

prometheus-client's own server, in threads of its own; whatever path is asked for gets all metrics.
"""

import errno

import prometheus_client

from zdfs import addresses
from zdfs.errors import StartError
from zdfs.measures import Meter


def serve(meter: Meter, text: str | None) -> None:
    """Until the process ends.  `text`: PORT (on loopback) or HOST:PORT; None: nobody asked for it.
    StartError: it can't be had."""
    prometheus_client.ProcessCollector(registry=meter.registry)
    if text is None:
        return
    try:
        host, _, port = addresses.parse(text).rpartition(":")
        prometheus_client.start_http_server(int(port), host, meter.registry)
    except StartError as error:
        raise StartError(f"--metrics: {error}") from error
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "it is in use; choose another" if taken else error.strerror or str(error)
        raise StartError(f"--metrics {text}: can't listen there: {why}") from error
