"""Names, attributes and extended attributes: the metaserver's answers to what POSIX asks of them.

What each means is a function on a transaction (`namespace`, `xattrs`); here it meets the permission
to serve and the time.
"""

from collections.abc import Mapping

from zdfs import namespace, wire, xattrs
from zdfs.calls import clock, now
from zdfs.contents import newborn_of
from zdfs.ledger import Ledger
from zdfs.membership import Membership, space
from zdfs.orphans import Orphans
from zdfs.ports import Caller, Handler


class Names:
    """Handlers of requests about names."""

    def __init__(self, ledger: Ledger, members: Membership, orphans: Orphans):
        """`orphans`: inodes that lost their last name, for whoever lets go of them."""
        self.ledger, self.members, self.orphans = ledger, members, orphans
        self.handlers: Mapping[type[wire.Message], Handler] = {
            wire.Lookup: self.lookup,
            wire.GetAttributes: self.get_attributes,
            wire.SetAttributes: self.set_attributes,
            wire.Make: self.make,
            wire.Unlink: self.unlink,
            wire.RemoveDirectory: self.remove_directory,
            wire.Rename: self.rename,
            wire.Link: self.link,
            wire.ReadLink: self.read_link,
            wire.ReadDirectory: self.read_directory,
            wire.ListNames: self.list_names,
            wire.GetXattr: self.get_xattr,
            wire.ListXattr: self.list_xattr,
            wire.SetXattr: self.set_xattr,
            wire.RemoveXattr: self.remove_xattr,
            wire.StatFs: self.stat_fs,
        }

    async def _reading(self) -> None:
        self.members.may_read(await now())

    async def _changing(self) -> int:
        """May we?  And what time is it?"""
        at_ns = await clock()
        self.members.may_change()
        return at_ns

    async def lookup(self, request: wire.Lookup, caller: Caller) -> wire.Walked:
        """Walk names."""
        await self._reading()
        with self.ledger.view() as view:
            steps, number, version = namespace.walk(view, request.parent, request.names)
        return wire.Walked(tuple(steps), number, version)

    async def get_attributes(self, request: wire.GetAttributes, caller: Caller) -> wire.Found:
        """stat."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Found(namespace.stat_inode(view, request.ino))

    async def set_attributes(self, request: wire.SetAttributes, caller: Caller) -> wire.Found:
        """chmod, chown, utimens."""
        at_ns = await self._changing()
        atime, mtime = request.times(at_ns)  # one clock for all times
        with self.ledger.change(grows=False) as tables:
            return wire.Found(
                namespace.set_attributes(
                    tables, at_ns, request.ino, request.mode, request.uid, request.gid, atime,
                    mtime, request.ctime_ns, request.was_mode,
                )
            )  # fmt: skip

    async def make(self, request: wire.Make, caller: Caller) -> wire.Found:
        """mkdir, mknod, symlink."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            newborn = newborn_of(self.ledger, request, request.mode)
            made = namespace.make(tables, at_ns, request.parent, request.name, newborn)
            return wire.Found(made, namespace.stat_inode(tables, request.parent))

    async def unlink(self, request: wire.Unlink, caller: Caller) -> wire.Found:
        """unlink."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            ino, orphaned = namespace.unlink(tables, at_ns, request.parent, request.name)
            found = namespace.stat_inode(tables, ino)
            directory = namespace.stat_inode(tables, request.parent)
            stood = tables.inode(ino).parent
        if orphaned:
            self.orphans.add(ino, stood)
        return wire.Found(found, directory)

    async def remove_directory(self, request: wire.RemoveDirectory, caller: Caller) -> wire.Found:
        """rmdir."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            ino = namespace.rmdir(tables, at_ns, request.parent, request.name)
            found = namespace.stat_inode(tables, ino)
            directory = namespace.stat_inode(tables, request.parent)
        self.orphans.add(ino, request.parent)
        return wire.Found(found, directory)

    async def rename(self, request: wire.Rename, caller: Caller) -> wire.Renamed:
        """rename."""
        at_ns = await self._changing()
        target = (request.new_parent, [request.new_name])
        with self.ledger.change(grows=False) as tables:
            there, _ = namespace.lookup(tables, *target)
            orphan = namespace.rename(
                tables, at_ns, request.parent, request.name, request.new_parent,
                request.new_name, request.flags,
            )  # fmt: skip
            (moved,), _ = namespace.lookup(tables, *target)
            replaced = namespace.stat_inode(tables, there[0].ino) if there else None
            left = namespace.stat_inode(tables, request.parent)
            entered = namespace.stat_inode(tables, request.new_parent)
            stood = None if orphan is None else tables.inode(orphan).parent
        if orphan is not None and stood is not None:
            self.orphans.add(orphan, stood)
        return wire.Renamed(moved, replaced, left, entered)

    async def link(self, request: wire.Link, caller: Caller) -> wire.Found:
        """link."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            linked = namespace.link(tables, at_ns, request.ino, request.parent, request.name)
            return wire.Found(linked, namespace.stat_inode(tables, request.parent))

    async def read_link(self, request: wire.ReadLink, caller: Caller) -> wire.Target:
        """readlink."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Target(namespace.read_link(view, request.ino))

    async def read_directory(self, request: wire.ReadDirectory, caller: Caller) -> wire.Listing:
        """A page of a directory."""
        await self._reading()
        with self.ledger.view() as view:
            return namespace.listing(view, request.ino, request.after, request.most)

    async def list_names(self, request: wire.ListNames, caller: Caller) -> wire.NameList:
        """A page of a directory, names only."""
        await self._reading()
        with self.ledger.view() as view:
            return namespace.name_list(view, request.ino, request.after)

    async def get_xattr(self, request: wire.GetXattr, caller: Caller) -> wire.Value:
        """getxattr."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Value(xattrs.get(view, request.ino, request.name))

    async def list_xattr(self, request: wire.ListXattr, caller: Caller) -> wire.Names:
        """listxattr."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Names(tuple(xattrs.names(view, request.ino)))

    async def set_xattr(self, request: wire.SetXattr, caller: Caller) -> wire.Found:
        """setxattr."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            xattrs.put(
                tables, at_ns, request.ino, request.name, request.value, request.flags,
                request.ends_sgid,
            )  # fmt: skip
            return wire.Found(namespace.stat_inode(tables, request.ino))

    async def remove_xattr(self, request: wire.RemoveXattr, caller: Caller) -> wire.Found:
        """removexattr."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            xattrs.remove(tables, at_ns, request.ino, request.name)
            return wire.Found(namespace.stat_inode(tables, request.ino))

    async def stat_fs(self, request: wire.StatFs, caller: Caller) -> wire.Space:
        """statfs."""
        await self._reading()
        with self.ledger.view() as view:
            totals = view.totals()
        return space(self.ledger, self.members.reports, totals.inodes, totals.stored_bytes)
