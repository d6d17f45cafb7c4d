package upper

import (
	"io/fs"
	"os"
	"syscall"
)

// Size is the space that an upper takes on its file system, in bytes, each file counted once. What can't be read is not
// counted. It may be mounted.
func Size(path string) (int64, error) {
	root, err := os.OpenRoot(path) // nothing in it leads out of it
	if err != nil {
		return 0, &Error{Dir: path, Problem: "can't be opened: " + cause(err).Error(), Err: err}
	}
	defer root.Close()
	linked := make(map[uint64]bool)
	var blocks int64
	err = fs.WalkDir(root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // closed to us, or gone just now
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !e.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		blocks += st.Blocks
		return nil
	})
	return blocks * 512, err
}
