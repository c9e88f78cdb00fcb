package kubelet

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
)

// hostLogs shows the files and directories of LogDir. Nothing outside of it is
// reached, whatever links lie there: a pod that may write to the directory could
// otherwise have any file of the host shown.
func (s *server) hostLogs(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("query") {
		http.Error(w, "podd has no query of logs; see journalctl(1)", http.StatusNotImplemented)
		return
	}
	root, err := os.OpenRoot(s.LogDir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	http.StripPrefix("/logs", http.FileServerFS(plainFS{root.FS()})).ServeHTTP(w, r)
}

// plainFS has directories and regular files only: opening a FIFO would wait for
// somebody to write to it.
type plainFS struct{ fs.FS }

func (p plainFS) Open(name string) (fs.File, error) {
	switch info, err := fs.Stat(p.FS, name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil, !info.Mode().IsRegular() && !info.IsDir():
		return nil, fs.ErrPermission // a link that leads out of the directory too
	}
	return p.FS.Open(name)
}
