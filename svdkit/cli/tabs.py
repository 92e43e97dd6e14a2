"""The kernels of the page: one a tab, and no more than a machine bears."""

from __future__ import annotations

from typing import Any, ClassVar

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from tornado.web import HTTPError

from svdkit.cli.notebook import kernel

MOST_TABS = 20  # of some 80 MB each


class Tab(ServerKernelManager):
    """A kernel that is this Python, whatever "python3" is on this machine."""

    kernel_spec = kernel()


class Tabs(AsyncMappingKernelManager):
    """Starts a kernel for whoever opens the page, as long as there is room; Voilà itself starts any number."""

    kernel_manager_class = f"{__name__}.Tab"
    _starting: ClassVar[set[str]] = set()

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]  # the class above is async too
        """Start one, or answer with a page that says why not."""
        if len({*self.list_kernel_ids(), *self._starting}) >= MOST_TABS:
            raise HTTPError(
                503, reason=f"{MOST_TABS} tabs are open, which is all there is room for; close one and try again"
            )
        tab: str = self.new_kernel_id(**options)
        self._starting.add(tab)
        try:
            await super().start_kernel(kernel_id=tab, **options)
        finally:
            self._starting.remove(tab)
        return tab
