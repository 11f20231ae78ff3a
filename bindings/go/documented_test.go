// SPDX-License-Identifier: LGPL-2.1-or-later

package livedisk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"testing"
)

// TestDocumented fails on an exported name, field or method without a comment.
func TestDocumented(t *testing.T) {
	files := token.NewFileSet()
	packages, err := parser.ParseDir(files, ".", func(file fs.FileInfo) bool {
		return !strings.HasSuffix(file.Name(), "_test.go")
	}, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	must := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		names++
		for _, comment := range comments {
			if strings.TrimSpace(comment.Text()) != "" {
				return
			}
		}
		t.Errorf("%s: %s has no comment", files.Position(name.Pos()), name.Name)
	}
	for _, file := range packages["livedisk"].Files {
		for _, declared := range file.Decls {
			switch declared := declared.(type) {
			case *ast.FuncDecl:
				must(declared.Name, declared.Doc)
			case *ast.GenDecl:
				for _, spec := range declared.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						must(spec.Name, spec.Doc, declared.Doc)
						if fields, ok := spec.Type.(*ast.StructType); ok && spec.Name.IsExported() {
							for _, field := range fields.Fields.List {
								for _, name := range field.Names {
									must(name, field.Doc, field.Comment)
								}
							}
						}
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							must(name, spec.Doc, spec.Comment, declared.Doc)
						}
					}
				}
			}
		}
	}
	if names < 50 {
		t.Fatalf("only %d exported names were found", names)
	}
}
