package behaviour_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// files returns the text of each file of the repository with this ending, without indentation.
func files(t *testing.T, ending string) map[string]string {
	texts := make(map[string]string)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ending) {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = regexp.MustCompile(`(?m)^[ \t]+`).ReplaceAllString(string(text), "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestTheLinksOfTheDocsLeadSomewhere(t *testing.T) {
	texts, found := files(t, ".md"), 0
	for path, text := range texts {
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			target := path
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(path), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if m[2] != "" && !slices.Contains(anchors(texts[target]), m[2]) {
				t.Errorf("%s: %s has no heading #%s", path, target, m[2])
			}
		}
	}
	if found == 0 {
		t.Error("found no links in the docs")
	}
}

// anchors returns GitHub's names for the headings of a document.
func anchors(text string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestTheDocsQuoteCompiledCodeAndTestsThatExist(t *testing.T) {
	var code strings.Builder
	for _, text := range files(t, ".go") {
		code.WriteString(text)
	}
	found := 0
	for path, text := range files(t, ".md") {
		for _, m := range regexp.MustCompile("(?s)```go\n(.*?)```|`((?:Test|Benchmark|Example|Fuzz)\\w+)`").FindAllStringSubmatch(text, -1) {
			if found++; m[1] != "" && !strings.Contains(code.String(), m[1]) {
				t.Errorf("%s: no Go file has the lines\n%s", path, m[1])
			}
			if m[2] != "" && !strings.Contains(code.String(), "func "+m[2]+"(") {
				t.Errorf("%s: there is no %s", path, m[2])
			}
		}
	}
	if found == 0 {
		t.Error("found no code in the docs")
	}
}
