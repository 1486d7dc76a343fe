"""Who may do what at a server, where a cluster has keys; and whom dataservers admit to blocks.

A client shows a dataserver the pass that the metaserver gave it (`passes`), and gets at the blocks
that it covers: its own files', to read or to write.  Nodes and administrators need none.
"""

from zdfs import limits, passes, rights, wire
from zdfs.errors import NoPass, Unavailable
from zdfs.keys import Role
from zdfs.ports import Caller
from zdfs.rights import Rights


def allowed(caller: Caller, request: wire.Message) -> Rights | None:
    """The rights of who asks, if they suffice for this; Posix says why not.  None: no keys here."""
    if caller.key is None:
        return None
    found = rights.of(caller.key)
    refused = rights.refusal(caller.key.name, found, request)
    if refused is not None:
        raise refused
    return found


class Admission:
    """A dataserver's."""

    def __init__(self) -> None:
        self.secrets = passes.Known(limits.PASS_S)

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Posix: not this key.  NoPass: not for these blocks.  Unavailable: nobody can say yet."""
        found = allowed(caller, request)
        if found is None or found.role is not Role.CLIENT:
            return
        if isinstance(request, wire.Put):
            self._covered(caller, found, request, passes.WRITE)
        elif isinstance(request, wire.Get):
            self._covered(caller, found, request, passes.READ)

    def _covered(
        self, caller: Caller, found: Rights, request: wire.Put | wire.Get, use: int
    ) -> None:
        assert caller.key is not None
        holder, permit = caller.key.name, request.permit
        shown = passes.opened(permit)
        if shown is None:
            raise NoPass(f"{holder} shows no pass for these blocks")
        if self.secrets.later(shown.number):
            raise Unavailable("that pass is newer than what the metaserver told us")
        if not self.secrets.genuine(permit, shown.number, holder):
            raise NoPass(f"the pass that {holder} shows is not valid, or not any more")
        if shown.ino == passes.ALL and not found.whole:  # its rights were cut since
            raise NoPass(f"the pass that {holder} shows is for more than it may see by now")
        for block in request.blocks:
            ino = block.name.ino  # 0 are not a file's: copies of the metadata
            if not (ino and shown.covers(ino, use)):
                raise NoPass(f"the pass that {holder} shows is not for inode {ino}")
