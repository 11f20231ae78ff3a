// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a program does with a library that has only what the first release had, and whose operations do nothing.
const firstRelease = `package main

import (
	"context"
	"errors"
	"fmt"

	"livedisk.invalid/livedisk"
)

func main() {
	ctx := context.Background()
	connection, err := livedisk.Open("")
	if err != nil {
		panic(err)
	}
	snapshot := func(options livedisk.SnapshotOptions) error {
		options.Disks = append(options.Disks, livedisk.SnapshotDisk{Target: "vda", Destination: "/nowhere"})
		_, err := connection.StartLiveSnapshot(ctx, "guest", options)
		return err
	}
	_, freeze := connection.Freeze(ctx, "guest", 0)
	_, thaw := connection.Thaw(ctx, "guest")
	_, operations := connection.Operations(ctx, "")
	_, dry := connection.RecoverDryRun(ctx, "")
	_, checkpoints := connection.Checkpoints(ctx, "guest")
	for what, err := range map[string]error{
		"Freeze": freeze, "Thaw": thaw, "Operations": operations, "RecoverDryRun": dry,
		"Checkpoints": checkpoints, "DeleteCheckpoint": connection.DeleteCheckpoint(ctx, "guest", "monday"),
		"Compress": snapshot(livedisk.SnapshotOptions{Compress: true}),
		"FullIfNeeded": snapshot(livedisk.SnapshotOptions{FullIfNeeded: true}),
		"Scratch": snapshot(livedisk.SnapshotOptions{Scratch: "/scratch"}),
		"options.disks[0].backing": snapshot(livedisk.SnapshotOptions{Disks: []livedisk.SnapshotDisk{{Backing: "/base"}}}),
	} {
		if !errors.Is(err, livedisk.ErrUnsupported) {
			panic(fmt.Sprintf("%s: %v", what, err))
		}
		fmt.Println(err)
	}
	if _, err := connection.Recover(ctx, ""); err != nil {
		panic(err)
	}
	connection.Close()
	fmt.Println(livedisk.Version(), livedisk.ErrBusy.Name())
}
`

// The package builds against a library of the first release, and runs with it.
func TestFirstRelease(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	list, err := os.ReadFile("../../packaging/livedisk.map")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(list), "local:")
	source := `const char *livedisk_version(void) { return "0.1.0"; }
int livedisk_open(const char *uri, unsigned flags, const void **out, void **error) { *out = livedisk_open; return 0; }
`
	for _, function := range regexp.MustCompile(`livedisk_\w+;`).FindAllString(first, -1) {
		if function != "livedisk_version;" && function != "livedisk_open;" {
			source += fmt.Sprintf("int %s(void) { return 0; }\n", strings.TrimSuffix(function, ";"))
		}
	}
	for name, text := range map[string]string{"library.c": source, "main.go": firstRelease} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Go would compile it as a part of the program.
	library := filepath.Join(directory, "lib")
	if err := os.Mkdir(library, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(directory, "library.c"), filepath.Join(library, "library.c")); err != nil {
		t.Fatal(err)
	}
	var output []byte
	for _, command := range [][]string{
		{"cc", "-shared", "-fPIC", "-Wl,-soname,liblivedisk.so.0", "-o", "lib/liblivedisk.so", "lib/library.c"},
		{"ln", "-s", "liblivedisk.so", "lib/liblivedisk.so.0"},
		{"go", "mod", "init", "first"},
		{"go", "mod", "edit", "-require", "livedisk.invalid/livedisk@v0.0.0", "-replace", "livedisk.invalid/livedisk=" + here},
		{"go", "run", "."},
	} {
		command := exec.Command(command[0], command[1:]...)
		command.Dir = directory
		command.Env = append(os.Environ(), "CGO_LDFLAGS=-L"+library, "LD_LIBRARY_PATH="+library)
		if output, err = command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command.Args, err, output)
		}
	}
	said := string(output)
	if strings.Count(said, "needs liblivedisk 0.2.0 or later, and the one that is loaded is 0.1.0") != 10 ||
		!strings.HasSuffix(said, "0.1.0 unknown\n") {
		t.Errorf("it says: %s", said)
	}
}
