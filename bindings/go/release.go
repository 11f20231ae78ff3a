// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

import (
	"fmt"
	"strings"
)

// secondRelease is the version of the C library that brought what the first one lacks.
const secondRelease = "0.2.0"

// needs fails with [ErrUnsupported] where the C library that is loaded is older than the second release.
func needs(what string) error {
	if !strings.HasPrefix(Version(), "0.1.") {
		return nil
	}
	return &Error{
		Code: ErrUnsupported,
		Message: fmt.Sprintf("%s needs liblivedisk %s or later, and the one that is loaded is %s: upgrade it", what,
			secondRelease, Version()),
	}
}
