package container

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// places are where live systems keep their root, tried in this order with path.Match.
var places = []string{
	"live/filesystem.squashfs",   // Debian live-boot
	"casper/filesystem.squashfs", // Ubuntu
	"LiveOS/squashfs.img",        // dracut dmsquash-live: Fedora, openSUSE, AlmaLinux
	"LiveOS/rootfs.img",
	"arch/*/airootfs.sfs", // archiso
	"arch/*/airootfs.erofs",
	"KNOPPIX/KNOPPIX",
}

// clearly is how many times as large as any other image of an ISO the one is that is taken for the root.
const clearly = 4

// maxListed is how many parts an error names.
const maxListed = 12

// Choose returns the part to pack.
//
// With want it is the part of this name (a leading "/" does not count, nor does case if only one name fits then),
// or the partition of this number.
//
// With want "" it is the one that holds the root. Of an ISO: the image in the first known place that there is (see places),
// else the only image, else one that is 4 times as large as any other. An image that may be one of several layers
// of the root is never chosen: one with a sibling whose name goes on from its own (Ubuntu's minimal.squashfs and
// minimal.standard.squashfs), any of several in live/, which live-boot stacks, and, outside of the known
// places, any that is not alone in its directory. Of a disk: the only partition of a Linux root type, or the only
// one of these with a Linux file system; else the only partition with a Linux file system that is not a boot,
// swap, home or similar one by its type.
//
// Where that does not decide, the error is a *ChoiceError.
func Choose(parts []Part, want string) (Part, error) {
	if want != "" {
		return chooseNamed(parts, want)
	}
	if len(parts) > 0 && parts[0].Number > 0 {
		return choosePartition(parts)
	}
	return chooseFile(parts)
}

// A ChoiceError tells that a part must be named, or that there is none of the name.
type ChoiceError struct {
	Want  string // "" if none was named
	Parts []Part // what there is to name; empty if nothing in the image can be packed
}

func (e *ChoiceError) Error() string {
	var list []string
	for i, p := range e.Parts {
		if i == maxListed {
			list = append(list, fmt.Sprintf("and %d more", len(e.Parts)-i))
			break
		}
		kind := p.Kind
		if kind == "" {
			kind = "unknown"
		}
		list = append(list, fmt.Sprintf("%s: %s, %.1f MiB", quoted(p.Name), kind, float64(p.Len)/(1<<20)))
	}
	switch {
	case len(list) == 0 && e.Want != "":
		return fmt.Sprintf("--inside %s: there is no file-system image inside", e.Want)
	case len(list) == 0:
		return "there is no file-system image (squashfs, EROFS, ext4, cloop) and no partition inside"
	case e.Want != "":
		return fmt.Sprintf("--inside %s: not found; there is %s", e.Want, strings.Join(list, "; "))
	}
	return "which file system inside is wanted is not clear; say --inside NAME or NUMBER: " + strings.Join(list, "; ")
}

func chooseNamed(parts []Part, want string) (Part, error) {
	name := strings.TrimPrefix(want, "/")
	number, _ := strconv.Atoi(want)
	var folded []Part
	for _, p := range parts {
		if p.Name == name || number > 0 && p.Number == number {
			return p, nil
		}
		if strings.EqualFold(p.Name, name) {
			folded = append(folded, p)
		}
	}
	if len(folded) == 1 {
		return folded[0], nil
	}
	return Part{}, &ChoiceError{want, parts}
}

func choosePartition(parts []Part) (Part, error) {
	var roots, rootsFS, linux []Part
	for _, p := range parts {
		switch {
		case p.role == roleRoot:
			roots = append(roots, p)
			if linuxFS(p.Kind) {
				rootsFS = append(rootsFS, p)
			}
		case p.role == roleLinux && linuxFS(p.Kind):
			linux = append(linux, p)
		}
	}
	candidates := [][]Part{roots, rootsFS}
	if len(roots) == 0 {
		candidates = [][]Part{linux}
	}
	for _, c := range candidates {
		if len(c) == 1 {
			return c[0], nil
		}
	}
	return Part{}, &ChoiceError{Parts: parts}
}

func chooseFile(parts []Part) (Part, error) {
	for _, place := range places {
		var found []Part
		for _, p := range parts {
			// Names of an ISO without Rock Ridge and Joliet are in small letters.
			if ok, _ := path.Match(strings.ToLower(place), strings.ToLower(p.Name)); ok {
				found = append(found, p)
			}
		}
		if len(found) == 0 {
			continue
		}
		if len(distinct(found)) > 1 || layered(found[0], parts, path.Dir(place) == "live") {
			return Part{}, &ChoiceError{Parts: parts}
		}
		return found[0], nil
	}
	largest, second := -1, int64(0)
	images := distinct(parts)
	for i, p := range images {
		switch {
		case largest < 0 || p.Len > images[largest].Len:
			if largest >= 0 {
				second = images[largest].Len
			}
			largest = i
		case p.Len > second:
			second = p.Len
		}
	}
	if largest < 0 || images[largest].Len/clearly < second || layered(images[largest], images, true) {
		return Part{}, &ChoiceError{Parts: parts}
	}
	return images[largest], nil
}

// distinct leaves out further names of the same bytes.
func distinct(parts []Part) []Part {
	seen := make(map[[2]int64]bool)
	var out []Part
	for _, p := range parts {
		if key := [2]int64{p.Off, p.Len}; !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
	}
	return out
}

// layered tells whether p may be only a layer of the root: whether another image, any or one whose name goes on from
// that of p, lies in the same directory.
func layered(p Part, parts []Part, any bool) bool {
	dir, base := path.Split(p.Name)
	stem := strings.TrimSuffix(base, path.Ext(base)) + "."
	for _, q := range parts {
		qDir, qBase := path.Split(q.Name)
		if qDir != dir || qBase == base || q.Off == p.Off && q.Len == p.Len {
			continue
		}
		if any || strings.HasPrefix(qBase, stem) {
			return true
		}
	}
	return false
}
