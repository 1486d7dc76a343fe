"""What zdfs-mount does in the foreground: a mount, with everything wired together."""

import argparse
import os
from pathlib import Path

from zdfs import addresses, kernel, limits, notify, starting, wire
from zdfs.calls import Peer
from zdfs.errors import StartError
from zdfs.insight import Insight
from zdfs.link import Link
from zdfs.measures import Role
from zdfs.mount import Settings
from zdfs.mount import mount as serve_mount
from zdfs.running import log_to, meter_of, more_files
from zdfs.tools import admin
from zdfs.volume import Volume


def serve(
    chosen: argparse.Namespace, directory: Path, meta: str, data: list[str], herald: starting.Herald
) -> None:
    """Until it is unmounted."""
    wire.speak(chosen.speak)
    about = {"ZDFS_ROLE": "mount", "ZDFS_SERVER": meta, "ZDFS_MOUNT": str(directory)}
    log_to(chosen.log, "zdfs-mount", **about)
    more_files()
    meter = meter_of(chosen, Role.MOUNT)
    link = Link(kernel.interrupted, kernel.dying, chosen.keys, meter)
    shown = os.fsencode(directory).decode(errors="replace")
    volume = Volume(meta, shown, link, chosen.attr_timeout, chosen.entry_timeout, chosen.writeback)
    try:
        if chosen.herald is not None:  # somebody waits for a word; -f alone waits for the cluster
            link.run(admin.find_meta(meta, limits.MOUNT_TRIES_S))
        link.run(volume.start())
        ring = [member.address for member in volume.contact.map.members]
        if data and data != ring:
            link.run(volume.stop())
            shown = " ".join(addresses.short(address) for address in ring)
            raise StartError(f"the cluster's dataservers are {shown}: name these, or none")
        link.attend(volume, Peer(meta))
        options = tuple(option for text in chosen.o for option in text.split(","))
        notifier = notify.from_environment(os.environ, os.getpid())

        def ready() -> None:
            herald.ready()
            notifier.ready(f"mounted on {directory}")

        settings = Settings(
            meta, options, chosen.attr_timeout, chosen.entry_timeout, chosen.watchers,
            ready=ready, turn=notifier.alive, ending=notifier.stopping,
            insight=Insight(volume, link, meter),
        )  # fmt: skip
        serve_mount(directory, volume, link.run, settings)
        link.run(volume.stop())
    finally:
        link.close()
