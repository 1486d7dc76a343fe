"""What processes that go on have in common: where they log, how many files, what they count."""

import argparse
import logging
import os
import resource
import sys
import time
from pathlib import Path

from zdfs import checksum, exporter, journal
from zdfs.measures import Meter, Role
from zdfs.ports import Reading

log = logging.getLogger("zdfs")


def log_to(path: Path | None, name: str, **fields: str) -> None:
    """Log lines to where they shall go."""
    journal.log_to(path, name, fields, os.environ)
    if "pure" in checksum.engine():
        log.warning("checksums run in slow Python: install fastcrc, or crcmod with a C compiler")


def more_files() -> None:
    """As many open files as this process may have, and turns for threads that waited."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    sys.setswitchinterval(0.001)  # threads that finished a wait get the interpreter soon


def meter_of(chosen: argparse.Namespace, role: Role) -> Meter:
    """What this process counts, and its door to Prometheus if that is wanted."""
    meter = Meter(role)
    meter.sources["clock"] = lambda: [Reading("zdfs_clock_seconds", time.time())]
    exporter.serve(meter, chosen.metrics)
    return meter
