/* SPDX-License-Identifier: LGPL-2.1-or-later
 * Nothing but the header, twice. */
#include <livedisk.h>
#include <livedisk.h>
