package crash

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Image is what a medium holds: files and directories, by number.
type Image struct {
	objects map[int]*object
	next    int
}

// object is a file or a directory.
type object struct {
	content   *Content
	attribute string
	mode      fs.FileMode
	entries   map[string]int // nil: a file
}

// Root is the directory that every image has.
const Root = 0

// NewImage returns one with an empty root directory.
func NewImage() *Image {
	i := &Image{objects: map[int]*object{}}
	i.add(&object{mode: 0o700, entries: map[string]int{}})
	return i
}

func (i *Image) add(o *object) int {
	number := i.next
	i.next++
	i.objects[number] = o
	return number
}

// AddFile adds a durable file of zeroes that no directory names, and returns its number.
func (i *Image) AddFile(size int64) int {
	return i.add(&object{content: NewContent(size), mode: 0o600})
}

// Content is what a file holds.
func (i *Image) Content(file int) *Content { return i.objects[file].content }

// Attribute is the attribute of a file; "" if it has none.
func (i *Image) Attribute(file int) string { return i.objects[file].attribute }

// Clone returns an independent copy.
func (i *Image) Clone() *Image {
	c := &Image{objects: make(map[int]*object, len(i.objects)), next: i.next}
	for number, o := range i.objects {
		copied := *o
		if o.content != nil {
			copied.content = o.content.Clone()
		}
		copied.entries = maps.Clone(o.entries)
		c.objects[number] = &copied
	}
	return c
}

// WriteTo makes directory, which must be empty, what the root directory of the image is.
func (i *Image) WriteTo(directory string) error { return i.writeDirectory(Root, directory) }

func (i *Image) writeDirectory(number int, path string) error {
	for name, child := range i.objects[number].entries {
		o, at := i.objects[child], filepath.Join(path, name)
		if o.entries == nil {
			if err := os.WriteFile(at, o.content.bytes(), o.mode); err != nil {
				return err
			}
			if err := os.Chmod(at, o.mode); err != nil {
				return err
			}
			continue
		}
		if err := os.Mkdir(at, o.mode); err != nil {
			return err
		}
		if err := i.writeDirectory(child, at); err != nil {
			return err
		}
	}
	return nil
}

// Digest is the same for images whose root directories are, but for the entries whose names ignore picks.
func (i *Image) Digest(ignore func(name string) bool) [sha256.Size]byte {
	sum := sha256.New()
	i.digest(sum, Root, ignore)
	return [sha256.Size]byte(sum.Sum(nil))
}

func (i *Image) digest(sum hash.Hash, number int, ignore func(string) bool) {
	o := i.objects[number]
	if o.entries == nil {
		content := o.content.bytes()
		fmt.Fprintf(sum, "file %o %d %s\n", o.mode, len(content), content)
		return
	}
	fmt.Fprintf(sum, "directory %o\n", o.mode)
	for _, name := range slices.Sorted(maps.Keys(o.entries)) {
		if !ignore(name) {
			fmt.Fprintf(sum, "%q ", name)
			i.digest(sum, o.entries[name], ignore)
		}
	}
	fmt.Fprintln(sum, "end")
}

// ReadDirectory returns the image of a directory, all of it durable.
func ReadDirectory(directory string) (*Image, error) {
	i := NewImage()
	return i, i.readDirectory(Root, directory)
}

func (i *Image) readDirectory(number int, path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		at := filepath.Join(path, entry.Name())
		o := &object{mode: info.Mode().Perm()}
		child := i.add(o)
		i.objects[number].entries[entry.Name()] = child
		if entry.IsDir() {
			o.entries = map[string]int{}
			if err := i.readDirectory(child, at); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		o.content = NewContent(int64(len(content)))
		o.content.Put(content, 0)
	}
	return nil
}

// lookup finds a path below the root.
func (i *Image) lookup(names []string) (int, error) {
	number := Root
	for _, name := range names {
		child, ok := i.objects[number].entries[name]
		if !ok {
			return 0, fmt.Errorf("%v: %w", names, fs.ErrNotExist)
		}
		number = child
	}
	return number, nil
}
