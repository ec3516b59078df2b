// Command names measures how the code of internal is named and cut: the figures
// of the table in docs/architecture.md. It reads the files of the checkout in
// which it runs, or of the one that it is given, and changes nothing.
//
//	go run ./test/names [-v] [ROOT]
//
// Tests and internal/ktest, which only tests use, do not count. -v lists the
// names that several packages share, the long functions, and the one-word names
// of each package.
package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// standard are the names of methods by which the standard library calls ours,
// or that it gives to the same thing. They may be one word in every package.
var standard = []string{"Close", "Error", "Is", "Len", "Less", "MarshalJSON", "New", "Read", "Run", "String", "Swap", "UnmarshalJSON", "Unwrap", "Wait", "Write"}

const (
	manyPackages = 5
	longFunction = 50 // lines between the braces
	copied       = 6  // lines of a body that stand in another place as well are a copy
)

type function struct {
	name, dir, at string
	lines         int
}

// code is what was counted.
type code struct {
	lines     int
	bodies    [][]string // of functions: their lines, without blank ones and comments
	dirs      map[string]bool
	exported  int // functions, methods, types, constants and variables
	functions []function
}

func main() {
	verbose := flag.Bool("v", false, "list the names")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	c, err := readCode(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "names:", err)
		os.Exit(1)
	}
	c.printFigures(os.Stdout)
	if *verbose {
		c.printNames(os.Stdout)
	}
}

// readCode reads the packages below root's folder internal.
func readCode(root string) (*code, error) {
	c := &code{dirs: map[string]bool{}}
	return c, filepath.WalkDir(filepath.Join(root, "internal"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "ktest") {
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		name, err := filepath.Rel(root, path)
		return errors.Join(err, c.addFile(path, name))
	})
}

func (c *code) addFile(path, name string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	c.dirs[dir] = true
	c.lines += set.File(file.Pos()).LineCount() - 1 // the last newline begins one more
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			c.addNames(d)
		case *ast.FuncDecl:
			if d.Name.IsExported() {
				c.exported++
			}
			f := function{name: d.Name.Name, dir: dir, at: fmt.Sprintf("%s:%d", name, set.Position(d.Pos()).Line)}
			if d.Body != nil {
				f.lines = set.Position(d.Body.Rbrace).Line - set.Position(d.Body.Lbrace).Line - 1
				c.addBody(string(text[set.Position(d.Body.Lbrace).Offset+1 : set.Position(d.Body.Rbrace).Offset]))
			}
			c.functions = append(c.functions, f)
		}
	}
	return nil
}

func (c *code) addBody(text string) {
	var body []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			body = append(body, line)
		}
	}
	c.bodies = append(c.bodies, body)
}

// countCopied counts the lines of bodies in runs of six or more that stand in more than one place.
func (c *code) countCopied() (lines int) {
	places := map[string]int{}
	for _, body := range c.bodies {
		for i := range len(body) - copied + 1 {
			places[strings.Join(body[i:i+copied], "\n")]++
		}
	}
	for _, body := range c.bodies {
		end := 0 // of the lines that were counted
		for i := range len(body) - copied + 1 {
			if places[strings.Join(body[i:i+copied], "\n")] > 1 {
				lines += i + copied - max(end, i)
				end = i + copied
			}
		}
	}
	return lines
}

func (c *code) addNames(d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				c.exported++
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() {
					c.exported++
				}
			}
		}
	}
}

func (c *code) printFigures(w io.Writer) {
	letters, oneWord, long := 0, 0, 0
	for _, f := range c.functions {
		letters += len(f.name)
		if isOneWord(f.name) {
			oneWord++
		}
		if f.lines > longFunction {
			long++
		}
	}
	count := max(len(c.functions), 1)
	fmt.Fprintf(w, "lines                            %6d\n", c.lines)
	fmt.Fprintf(w, "packages                         %6d\n", len(c.dirs))
	fmt.Fprintf(w, "exported names                   %6d\n", c.exported)
	fmt.Fprintf(w, "functions and methods            %6d\n", len(c.functions))
	fmt.Fprintf(w, "mean length of their names       %6.1f letters\n", float64(letters)/float64(count))
	fmt.Fprintf(w, "names of one word                %6.0f %%\n", 100*float64(oneWord)/float64(count))
	fmt.Fprintf(w, "names in %d packages or more      %6d\n", manyPackages, len(c.findShared()))
	fmt.Fprintf(w, "functions of more than %d lines  %6d\n", longFunction, long)
	fmt.Fprintf(w, "lines in runs of %d that stand twice  %d\n", copied, c.countCopied())
}

// isOneWord reports whether a name has no second word: no capital letter and
// no digit after a small one.
func isOneWord(name string) bool {
	small := false
	for _, r := range name {
		if small && (unicode.IsUpper(r) || r == '_') {
			return false
		}
		small = small || unicode.IsLower(r)
	}
	return true
}

// findShared returns the names that many packages use for functions of their
// own, with those packages. Open and open are the same name.
func (c *code) findShared() map[string][]string {
	users := map[string][]string{}
	for _, f := range c.functions {
		name := strings.ToLower(f.name)
		if !slices.Contains(standard, f.name) && !slices.Contains(users[name], f.dir) {
			users[name] = append(users[name], f.dir)
		}
	}
	maps.DeleteFunc(users, func(_ string, dirs []string) bool { return len(dirs) < manyPackages })
	return users
}

func (c *code) printNames(w io.Writer) {
	fmt.Fprintln(w, "\nnames that many packages share:")
	shared := c.findShared()
	for _, name := range slices.Sorted(maps.Keys(shared)) {
		fmt.Fprintf(w, "  %s: %s\n", name, strings.Join(shared[name], " "))
	}
	fmt.Fprintln(w, "\nlong functions:")
	for _, f := range c.functions {
		if f.lines > longFunction {
			fmt.Fprintf(w, "  %s: %s has %d lines\n", f.at, f.name, f.lines)
		}
	}
	fmt.Fprintln(w, "\nnames of one word, by package:")
	for _, dir := range slices.Sorted(maps.Keys(c.dirs)) {
		count, names := 0, []string{}
		for _, f := range c.functions {
			if f.dir != dir {
				continue
			}
			if count++; isOneWord(f.name) {
				names = append(names, f.name)
			}
		}
		slices.Sort(names)
		fmt.Fprintf(w, "  %s: %d of %d (%d %%): %s\n", dir, len(names), count, 100*len(names)/max(count, 1), strings.Join(names, " "))
	}
}
