// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livedisk.invalid/livedisk/internal/bed"
)

// The program in the project's README works as pasted, in a module of its own, with the bed's names for its own.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n```go\n")
	program, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatal("no program in Go in the README")
	}
	path := bed.Path(t, "readme.qcow2")
	for name, real := range map[string]string{
		`"qemu:///system"`: bed.URI(t), `"guest"`: bed.WithAgent.Domain(t), `"/backup/guest.qcow2"`: path,
	} {
		if !strings.Contains(program, name) {
			t.Fatalf("no %s in the README's program", name)
		}
		program = strings.ReplaceAll(program, name, `"`+real+`"`)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "main.go"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	record := bed.WithAgent.LastRecord(t, "vda")
	var output []byte
	for _, command := range [][]string{
		{"mod", "init", "snapshot"},
		{"mod", "edit", "-require", "livedisk.invalid/livedisk@v0.0.0", "-replace", "livedisk.invalid/livedisk=" + here},
		{"run", "."},
	} {
		command := exec.Command("go", command...)
		command.Dir = directory
		if output, err = command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, output)
		}
	}
	if !strings.Contains(string(output), "frozen for") {
		t.Errorf("it says: %s", output)
	}
	bed.CheckImage(t, path, "qcow2", true, record)
}
