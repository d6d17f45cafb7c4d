package fs

// Check finds out what Mount would find wrong with a mountpoint, without mounting: for callers who have a long way to go
// before they have a tree. It returns the directory's absolute path without symlinks. Errors are *MountError.
func Check(dir string) (string, error) { return thisHost().mountpoint(dir) }
