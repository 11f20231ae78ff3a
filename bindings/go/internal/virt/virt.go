// SPDX-License-Identifier: LGPL-2.1-or-later

// Package virt gives tests a virConnectPtr of their own, as a program has that uses libvirt's Go module.
package virt

// #cgo pkg-config: libvirt
// #include <stdlib.h>
// #include <libvirt/libvirt.h>
// #include <libvirt/virterror.h>
import "C"

import (
	"fmt"
	"unsafe"
)

// Open returns a virConnectPtr; give it back with Close.
func Open(uri string) (unsafe.Pointer, error) {
	text := C.CString(uri)
	defer C.free(unsafe.Pointer(text))
	connection := C.virConnectOpen(text)
	if connection == nil {
		return nil, fmt.Errorf("virConnectOpen: %s", C.GoString(C.virGetLastErrorMessage()))
	}
	return unsafe.Pointer(connection), nil
}

// IsAlive asks libvirt whether the connection works.
func IsAlive(connection unsafe.Pointer) bool {
	return C.virConnectIsAlive(C.virConnectPtr(connection)) == 1
}

// Close gives the reference back, and says how many are left.
func Close(connection unsafe.Pointer) int {
	return int(C.virConnectClose(C.virConnectPtr(connection)))
}
