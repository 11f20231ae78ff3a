// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

// #include "callbacks.h"
import "C"

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// LevelTrace is the level of livedisk's most talkative lines, below [slog.LevelDebug].
const LevelTrace = slog.LevelDebug - 4

// From the most urgent on, as livedisk numbers them.
var levels = []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug, LevelTrace}

var logger atomic.Pointer[slog.Logger]

// SetLogger sets the logger that receives what livedisk does, for the whole process. It replaces the previous one; nil is
// none, as at first. livedisk logs the levels for which the logger is enabled at the time of the call. When the call
// returns, the previous logger is not used any more.
//
// Lines come one at a time, from livedisk's threads. A handler must not block for long, and what livedisk would log
// because of a call made within it is dropped. Called from within a handler SetLogger fails with [ErrInvalidArgument]
// (call it elsewhere); in a process with another logger of the Rust crate log with [ErrInternal].
func SetLogger(to *slog.Logger) error {
	// First none: so no line is under way to the previous logger when it is replaced.
	if err := setLog(false, 0); err != nil {
		return err
	}
	logger.Store(to)
	if to == nil {
		return nil
	}
	for level := len(levels) - 1; level >= 0; level-- {
		if to.Enabled(context.Background(), levels[level]) {
			return setLog(true, level)
		}
	}
	return nil
}

func setLog(wanted bool, level int) error {
	return check(func(failure **C.struct_livedisk_error) C.int32_t {
		var on C.int32_t
		if wanted {
			on = 1
		}
		return C.livedisk_go_set_log(on, C.int32_t(level), failure)
	})
}

//export livedisk_go_log
func livedisk_go_log(level C.int32_t, message *C.livedisk_go_text) {
	to := logger.Load()
	if to == nil {
		return
	}
	at := LevelTrace
	if int(level) < len(levels) {
		at = levels[level]
	}
	to.Log(context.Background(), at, C.GoString((*C.char)(message)))
}
