"""The commands of `zdfs`, a module each: its arguments (`options`), and what it does (`command`).

`admin` and `visiting` are what they share: who answers, and how to get at a file system.  `cli` has
the list of them.
"""
