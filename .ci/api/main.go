// Command api prints the exported API of the module's public packages, one item
// a line, for comparison with api.txt: what is in that file changes on purpose
// or not at all.
//
// It reads the syntax alone, so that all versions of Go print the same.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"log"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	log.SetFlags(0)
	for _, dir := range []string{".", "mosaictest"} {
		items, err := exported(dir)
		if err != nil {
			log.Fatal("api: ", err)
		}
		slices.Sort(items)
		for _, item := range items {
			fmt.Println(item)
		}
	}
}

// exported returns the exported items of the package in dir.
func exported(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var items []string
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			for _, item := range itemsOf(decl) {
				items = append(items, file.Name.Name+": "+item)
			}
		}
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("no exported API in %s (is this the repository's root?)", dir)
	}
	return items, nil
}

func itemsOf(decl ast.Decl) []string {
	var items []string
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		if decl.Name.IsExported() && (decl.Recv == nil || isExportedType(decl.Recv.List[0].Type)) {
			decl.Body = nil
			items = append(items, text(decl))
		}
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				if slices.ContainsFunc(spec.Names, (*ast.Ident).IsExported) {
					items = append(items, decl.Tok.String()+" "+text(spec))
				}
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					items = append(items, typeItems(spec)...)
				}
			}
		}
	}
	return items
}

// typeItems returns a type, and each exported field of a struct.
func typeItems(spec *ast.TypeSpec) []string {
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		return []string{"type " + text(spec)}
	}
	name := "type " + spec.Name.Name + " struct"
	items := []string{name}
	for _, field := range structure.Fields.List {
		tag := ""
		if field.Tag != nil {
			tag = " " + field.Tag.Value
		}
		if field.Names == nil && isExportedType(field.Type) {
			items = append(items, name+", embedded "+text(field.Type)+tag)
		}
		for _, fieldName := range field.Names {
			if fieldName.IsExported() {
				items = append(items, name+", "+fieldName.Name+" "+text(field.Type)+tag)
			}
		}
	}
	return items
}

// isExportedType reports whether the type of a receiver or an embedded field is
// exported.
func isExportedType(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.StarExpr:
		return isExportedType(t.X)
	case *ast.IndexExpr: // a generic type's receiver
		return isExportedType(t.X)
	case *ast.IndexListExpr:
		return isExportedType(t.X)
	case *ast.SelectorExpr:
		return t.Sel.IsExported()
	case *ast.Ident:
		return t.IsExported()
	}
	return false
}

// text returns a node on one line.
func text(node any) string {
	var b strings.Builder
	if err := printer.Fprint(&b, token.NewFileSet(), node); err != nil {
		log.Fatal("api: ", err)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
