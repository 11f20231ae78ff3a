# SPDX-License-Identifier: LGPL-2.1-or-later
"""The services read sys.argv as theirs, and it is gunicorn's."""

import sys


def post_fork(server, worker):
    sys.argv[1:] = []
