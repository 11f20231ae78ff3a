# SPDX-License-Identifier: LGPL-2.1-or-later
"""Threads, locks and queues of the operating system's, also where eventlet has put green ones in their place: the library
calls from threads of its own, and what is called on tpool's threads shares handles with the hub's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import queue
    import threading
else:
    _patcher = sys.modules.get("eventlet.patcher")
    if _patcher is not None and _patcher.is_monkey_patched("thread"):
        queue, threading = _patcher.original("queue"), _patcher.original("threading")
    else:
        import queue
        import threading

__all__ = ["queue", "threading"]
