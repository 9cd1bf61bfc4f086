"""Running notebooks: one, a sweep, all of them, and publishing them."""


class RunFailed(RuntimeError):
    """A cell raised, or the kernel died; the unfinished notebook is kept and named."""


class KernelDied(RunFailed):
    """The kernel did not start, or ended by itself (killed for its memory, say): the same run may succeed again."""
