"""A node's clocks: one that only grows, at its own rate and from its own zero, and one on the wall.

Nobody may compare one node's monotonic time with another's, and nothing but what people read (the
times of files and events) may depend on the wall's.
"""


class Clock:
    """World time to a node's own."""

    def __init__(self) -> None:
        self.rate = 1.0  # seconds of this clock in one of the world's
        self.wall_s = 0.0  # how far the wall clock is off
        self._world_s = self._own_s = 0.0  # one moment on both

    def read(self, now: float) -> float:
        """Monotonic seconds."""
        return self._own_s + (now - self._world_s) * self.rate

    def wall_ns(self, now: float) -> int:
        """Nanoseconds since 1970."""
        return int((now + self.wall_s) * 1e9)

    def lasts(self, seconds: float) -> float:
        """World seconds, for some of this clock's."""
        return seconds / self.rate

    def drift(self, now: float, rate: float) -> None:
        """Another rate, from now on; it does not jump."""
        self._own_s, self._world_s, self.rate = self.read(now), now, rate

    def reset(self, now: float, own_s: float) -> None:
        """Another zero: the machine was started anew."""
        self._own_s, self._world_s = own_s, now
