package fs

import "syscall"

// told lists the errors that a caller is told as they are: those that the operations themselves answer with. All
// others are EIO. They are matched by identity, not unwrapped: an ENOENT or an EINTR from a cache file or a socket
// says nothing of the file that was asked for, and an ENOSYS would make the kernel stop asking for good.
var told = map[syscall.Errno]bool{
	syscall.EINVAL:       true, // readlink of what is no link
	syscall.EISDIR:       true, // read of a directory
	syscall.ENAMETOOLONG: true, // a name or a link target longer than Linux has them
	syscall.ENODATA:      true, // no such extended attribute
	syscall.ENOENT:       true, // no such name
	syscall.ENOTDIR:      true, // listing of what is no directory
	syscall.ENOTTY:       true, // any ioctl
	syscall.ERANGE:       true, // an extended attribute larger than the caller's buffer
	syscall.EROFS:        true, // any change
	syscall.ESTALE:       true, // a node ID of another image
}

// errnoOf is the one place where an error becomes an errno.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := err.(syscall.Errno); ok && told[errno] {
		return errno
	}
	return syscall.EIO
}
