package fs

import "syscall"

// getxattr copies the value of an extended attribute to dst and returns its size. An empty dst asks for the
// size alone. A value larger than dst is ERANGE. A name the file does not have is ENODATA, whatever its
// namespace: ENOTSUP or ENOSYS would tell the kernel that there are no attributes at all.
func (o operations) getxattr(id uint64, name string, dst []byte) (int, syscall.Errno) {
	n, errno := o.node(id)
	if errno != 0 {
		return 0, errno
	}
	value, ok := o.tree.Xattr(n, name)
	if !ok {
		return 0, syscall.ENODATA
	}
	size, errno := sized(len(value), dst)
	if size <= len(dst) {
		copy(dst, value)
	}
	return size, errno
}

// listxattr copies the names of all extended attributes to dst, each with a NUL after it, and returns their size
// in bytes. An empty dst asks for the size alone; a list larger than dst is ERANGE.
func (o operations) listxattr(id uint64, dst []byte) (int, syscall.Errno) {
	n, errno := o.node(id)
	if errno != 0 {
		return 0, errno
	}
	xattrs := o.tree.Xattrs(n)
	size := 0
	for _, x := range xattrs {
		size += len(x.Name) + 1
	}
	size, errno = sized(size, dst)
	if size > len(dst) {
		return size, errno
	}
	for _, x := range xattrs {
		dst = dst[copy(dst, x.Name):]
		dst[0] = 0
		dst = dst[1:]
	}
	return size, 0
}

// sized is the rule that getxattr(2) and listxattr(2) share for an answer of size bytes.
func sized(size int, dst []byte) (int, syscall.Errno) {
	if len(dst) > 0 && size > len(dst) {
		return size, syscall.ERANGE
	}
	return size, 0
}
