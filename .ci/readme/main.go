// Command readme checks what README.md says against the code: its Go blocks
// compile, the tests and benchmarks that it names exist, and the error texts of
// its troubleshooting table are in the source.
//
// A Go block is a whole file, or declarations, or statements. What is no whole
// file finds its imports by name. Statements stand in a function with the
// parameters of params that returns an error, and may leave variables unused.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// imports are what a block may use without saying so.
var imports = []string{
	"context", "crypto", "crypto/tls", "crypto/x509", "encoding/pem", "errors", "flag", "fmt", "io", "log",
	"log/slog", "net/http", "os", "testing", "time",
	"golang.org/x/oauth2", "golang.org/x/oauth2/clientcredentials",
	"example.com/mosaic", "example.com/mosaic/mosaictest",
}

// params are what statements may use that stands elsewhere in a reader's program.
const params = "ctx context.Context, conf *mosaic.Config, id string, text []byte"

func main() {
	log.SetFlags(0)
	readme, err := os.ReadFile("README.md")
	if err != nil {
		log.Fatal("readme: ", err)
	}
	code, tests, err := source()
	if err != nil {
		log.Fatal("readme: ", err)
	}
	blocks, names, texts := goBlocks(string(readme)), testNames(string(readme)), errorTexts(string(readme))
	if len(blocks) == 0 || len(names) == 0 || len(texts) == 0 {
		log.Fatalf("readme: found %d Go blocks, %d tests, %d error texts: none may be missing", len(blocks), len(names), len(texts))
	}

	var problems []error
	exports := newImporter()
	for _, block := range blocks {
		problems = append(problems, block.check(exports)...)
	}
	for _, name := range names {
		if !strings.Contains(tests, "func "+name+"(") {
			problems = append(problems, fmt.Errorf("there is no %s", name))
		}
	}
	for _, text := range texts {
		if !strings.Contains(code, text) {
			problems = append(problems, fmt.Errorf("no error says %q", text))
		}
	}
	if len(problems) > 0 {
		log.Fatal(errors.Join(problems...))
	}
	fmt.Printf("README.md: %d Go blocks compile, %d tests and %d error texts exist\n", len(blocks), len(names), len(texts))
}

// A block is one of README.md's Go blocks.
type block struct {
	line int // its first
	text string
}

var fence = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

func goBlocks(readme string) []block {
	var blocks []block
	for _, at := range fence.FindAllStringSubmatchIndex(readme, -1) {
		blocks = append(blocks, block{1 + strings.Count(readme[:at[2]], "\n"), readme[at[2]:at[3]]})
	}
	return blocks
}

var packageClause = regexp.MustCompile(`(?m)^package \w+`)

// check returns what a compiler would say of b.
func (b block) check(imp types.Importer) []error {
	line := fmt.Sprintf("//line README.md:%d\n", b.line)
	whole := packageClause.MatchString(b.text)
	fset := token.NewFileSet()
	parse := func(src string) (*ast.File, error) { return parser.ParseFile(fset, "README.md", src, 0) }

	var file *ast.File
	var err error
	if whole {
		file, err = parse(line + b.text)
	} else {
		head := "package readme\nimport (\n\"" + strings.Join(imports, "\"\n\"") + "\"\n)\n"
		if file, err = parse(head + line + b.text); err != nil {
			file, err = parse(head + "func _(" + params + ") error {\n{\n" + line + b.text + "\n}\nreturn nil\n}\n")
		}
	}
	if err != nil {
		return []error{err}
	}
	var problems []error
	conf := types.Config{Importer: imp, Error: func(err error) {
		if soft := err.(types.Error).Soft; whole || !soft { // soft: something is not used
			problems = append(problems, err)
		}
	}}
	_, _ = conf.Check("readme", fset, []*ast.File{file}, nil) // its error is the first that Error got
	return problems
}

// newImporter returns an importer of compiled packages, the standard library's,
// the module's and those that it requires.
func newImporter() types.Importer {
	return importer.ForCompiler(token.NewFileSet(), "gc", func(importPath string) (io.ReadCloser, error) {
		list := exec.Command("go", "list", "-buildvcs=false", "-export", "-f", "{{.Export}}", importPath)
		list.Stderr = os.Stderr
		file, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list -export %s: %w", importPath, err)
		}
		return os.Open(string(bytes.TrimSpace(file)))
	})
}

var testName = regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)[A-Z]\w+`)

// testNames returns the tests that README names.
func testNames(readme string) []string {
	for _, b := range goBlocks(readme) {
		readme = strings.Replace(readme, b.text, "", 1) // an example's test is not ours
	}
	return testName.FindAllString(readme, -1)
}

var (
	troubleshooting = regexp.MustCompile(`(?ms)^## Troubleshooting$(.*?)^## `)
	firstColumn     = regexp.MustCompile("(?m)^\\| `([^`]+)`")
)

// errorTexts returns the keys of README's troubleshooting table.
func errorTexts(readme string) []string {
	var texts []string
	if section := troubleshooting.FindString(readme); section != "" {
		for _, row := range firstColumn.FindAllStringSubmatch(section, -1) {
			texts = append(texts, row[1])
		}
	}
	return texts
}

// source returns the text of the module's Go files, and that of its tests.
func source() (code, tests string, err error) {
	var c, t strings.Builder
	err = filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if strings.HasSuffix(name, "_test.go") {
			t.Write(text)
		} else {
			c.Write(text)
		}
		return err
	})
	return c.String(), t.String(), err
}
