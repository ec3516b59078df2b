package daemon

import (
	"fmt"
	"os"
	"path/filepath"

	"activator/internal/config"
	"activator/internal/kernel/fd"
	"activator/internal/process"
)

// ownFolder is a directory of a service's own.
type ownFolder struct {
	source   config.Source
	place    config.Place
	what     string // it is called in messages
	path     string // without a link
	owner    string
	runtime  bool // it is removed with all that is in it when its service ends
	given    bool // it is given to another user than ours
	position int  // of its service
}

// ownFolders are those of all services.
func ownFolders(all []config.Source) (folders []ownFolder) {
	for position, source := range all {
		conf, items := source.Service, map[string]int{}
		owner, given := process.DirectoryOwner(conf.Process), os.Geteuid() == 0 && process.ChangesUser(conf.Process)
		for _, d := range conf.Directories {
			items[d.Kind]++
			if path := process.DirectoryPath(d); path != "" {
				folders = append(folders, ownFolder{
					source: source, place: config.Place{Key: "service." + d.Kind + "_directory", Item: items[d.Kind]},
					what: fmt.Sprintf("%s_directory %q of service %s", d.Kind, d.Name, conf.Name), path: fd.ResolvePath(path),
					owner: owner, runtime: d.Kind == "runtime", given: given, position: position,
				})
			}
		}
	}
	return folders
}

// removed is what is said of a path in a folder that is removed.
const removed = ", which is removed with everything in it when that ends"

// checkFolders finds what cannot stand in a service's own folders: sockets, and the folders and the output of other
// services.
func (x *examination) checkFolders(all []config.Source) {
	folders := ownFolders(all)
	if len(folders) == 0 {
		return
	}
	at := make(map[string][]ownFolder)
	for _, f := range folders {
		at[f.path] = append(at[f.path], f)
	}
	for position, source := range all {
		for i, socket := range source.Service.Sockets {
			for _, path := range socketPaths(socket) {
				if fate := fateOf(at, path); fate != "" {
					x.addError(source, config.Place{Key: "socket.listen", Socket: i}, path+": stands in "+fate, "give the socket a folder that no service has as its own")
				}
			}
		}
		x.checkOutput(source, position, at)
	}
	for _, f := range folders {
		x.checkFolder(f, at)
	}
}

// fateOf says what becomes of a socket at path: of the folder nearest to it that is removed or given away.
func fateOf(at map[string][]ownFolder, path string) (fate string) {
	eachAbove(at, path, func(f ownFolder) bool {
		switch {
		case f.runtime:
			fate = f.what + removed
		case f.given:
			fate = f.what + ", which is given to that with everything in it"
		}
		return fate != ""
	})
	return fate
}

// eachAbove calls stop with the folders that a path lies in, the nearest first, until it returns true.
func eachAbove(at map[string][]ownFolder, path string, stop func(ownFolder) bool) {
	for folder := fd.ResolvePath(filepath.Dir(path)); folder != "/" && folder != "."; folder = filepath.Dir(folder) {
		for _, f := range at[folder] {
			if stop(f) {
				return
			}
		}
	}
}

// checkOutput finds files for a service's output that another service's end removes.
func (x *examination) checkOutput(source config.Source, position int, at map[string][]ownFolder) {
	for key, to := range outputFiles(source) {
		eachAbove(at, to, func(f ownFolder) bool {
			wrong := f.runtime && f.position != position
			if wrong {
				x.addError(source, config.Place{Key: key}, to+": lies in "+f.what+removed, "choose a folder that stays")
			}
			return wrong
		})
	}
}

// checkFolder finds another service whose end removes the folder, or who has it, or one around it, as another user.
func (x *examination) checkFolder(f ownFolder, at map[string][]ownFolder) {
	for _, other := range at[f.path] {
		switch { // the later one is told
		case other.position >= f.position:
		case other.runtime != f.runtime:
			x.addError(f.source, f.place, f.path+": is "+other.what+" too, and the runtime_directory of the two is removed when its service ends", "give each a directory of its own")
			return
		case other.owner != f.owner:
			x.addError(f.source, f.place, f.path+": is "+other.what+" too, and belongs to one user: "+users(f, other), "give each a directory of its own, or both the same user")
			return
		}
	}
	eachAbove(at, f.path, func(other ownFolder) bool {
		switch {
		case other.position == f.position:
			return false
		case other.runtime:
			x.addError(f.source, f.place, f.path+": lies in "+other.what+removed, "choose a directory that lies in no other service's")
		case other.owner != f.owner:
			x.addError(f.source, f.place, f.path+": lies in "+other.what+", and may be moved by that: "+users(f, other), "choose a directory that lies in no other service's, or give both the same user")
		default:
			return false
		}
		return true
	})
}

// users says whose two folders are.
func users(f, other ownFolder) string {
	return fmt.Sprintf("%s runs as %s, %s as %s", other.source.Service.Name, other.owner, f.source.Service.Name, f.owner)
}
