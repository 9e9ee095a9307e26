package main

import (
	"errors"
	"fmt"
	"io/fs"

	"bootprof/analyzer"
	"bootprof/imagepack"
	"bootprof/imagepack/imagemap"
	"bootprof/profiles"
)

// readRuns reads profile files; the errors name the file.
func readRuns(paths []string) ([]*profiles.Run, error) {
	var out []*profiles.Run
	for _, p := range paths {
		run, err := profiles.ReadFile(p)
		var file *fs.PathError
		if errors.Is(err, fs.ErrNotExist) {
			err = &imagepack.InputError{Path: p, Err: errors.New("no such file")}
		} else if errors.As(err, &file) {
			err = &imagepack.InputError{Path: p, Err: file.Err}
		}
		if err != nil {
			return nil, err
		}
		out = append(out, run)
	}
	return out, nil
}

// bootOrder turns runs into the boot order of an image: runs recorded on it page by page, behind them
// what mounts of it missed, and runs of other images by path. Notes for the user go to say.
func bootOrder(img imagepack.Image, sha [32]byte, names []string, runs []*profiles.Run, say func(string, ...any)) ([]profiles.Range, error) {
	var exact, missed, coarse []*profiles.Run
	var exactNames, missedNames, coarseNames []string
	var m *imagemap.Map
	for i, run := range runs {
		if run.Of(sha) && run.Header.Method == profiles.MethodMisses {
			missed, missedNames = append(missed, run), append(missedNames, names[i])
			continue
		}
		if run.Of(sha) {
			exact, exactNames = append(exact, run), append(exactNames, names[i])
			continue
		}
		if m == nil {
			m = imagemap.New(img.Segments())
		}
		rebased, err := rebase(run, img, sha, m, names[i], say)
		if err != nil {
			return nil, err
		}
		coarse, coarseNames = append(coarse, rebased), append(coarseNames, names[i])
	}
	var out []profiles.Range
	for _, group := range []struct {
		runs  []*profiles.Run
		names []string
	}{{exact, exactNames}, {missed, missedNames}, {coarse, coarseNames}} {
		if len(group.runs) == 0 {
			continue
		}
		plan, err := analyzer.Merge(group.runs, analyzer.MergeOptions{Names: group.names})
		if err != nil {
			return nil, err
		}
		out = append(out, plan.Order()...)
	}
	return out, nil
}

// rebase makes a run of img out of a run of another image.
func rebase(run *profiles.Run, img imagepack.Image, sha [32]byte, m *imagemap.Map, name string, say func(string, ...any)) (*profiles.Run, error) {
	if len(run.FileTouches) == 0 {
		return nil, &imagepack.InputError{Path: name, Err: errors.New("this run was recorded on another image and names no files, so it says nothing about this one: record a boot of this pack")}
	}
	touches, lost := profiles.Rebase(run, func(path string, k profiles.Kind, fileOff, length int64) []profiles.Range {
		var out []profiles.Range
		for _, s := range m.Find(path, imagemap.Kind(k), fileOff, length) {
			// Only the part asked for, where content is stored plainly.
			if imagemap.Kind(k) == imagemap.Data && s.ImageLen == s.FileLen {
				from, to := max(fileOff, s.FileOff), min(fileOff+length, s.FileOff+s.FileLen)
				out = append(out, profiles.Range{ImageOff: s.ImageOff + from - s.FileOff, Len: to - from})
				continue
			}
			out = append(out, profiles.Range{ImageOff: s.ImageOff, Len: s.ImageLen})
		}
		return out
	})
	if len(touches) == 0 {
		return nil, &imagepack.InputError{Path: name, Err: errors.New("this run was recorded on an image that shares no file with this one")}
	}
	kind := "by path"
	if run.Header.Coarse {
		kind = "by path, and coarse: it knows whole compressed blocks only"
	}
	advice := "a boot recorded on this pack serves better"
	if 2*lost > len(run.FileTouches) {
		advice = "most of what it touched is not here, so it is of little use: record a boot of this pack"
	}
	say("%s was recorded on another image and is used %s (%d of %d file touches found); %s",
		name, kind, len(run.FileTouches)-lost, len(run.FileTouches), advice)
	out := &profiles.Run{Header: run.Header, Touches: touches, Marks: run.Marks}
	out.Header.ImageSHA256, out.Header.ImageSize = sha, img.Size()
	// Whatever mode it was recorded in: as a run of this image it is one of its kind.
	out.Header.Method, out.Header.Readahead, out.Header.Coarse = "rebased", 0, true
	return out, nil
}

// plural is "1 run", "3 runs".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
