package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// serveRole mounts the sample at args[0], with options from the rest, until its input ends or the mount is gone.
func serveRole(args []string) error {
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	has := func(option string) bool { return slices.Contains(args[1:], option) }
	s, err := Mount(args[0], tree, &Options{
		Name: "sample, as \\ itself", AllowOther: has("allow_other"), Suid: has("suid"), Dev: has("dev"),
	})
	if err != nil {
		if !errors.Is(err, ErrMount) {
			return fmt.Errorf("no mount error: %w", err)
		}
		return err
	}
	fmt.Println("ok")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		if err := s.Unmount(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}()
	s.Wait()
	return nil
}

// mmapRole compares a mapping of args[0] with /big of the sample, page by page from the end.
func mmapRole(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	data, err := unix.Mmap(fd, 0, bigSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(data)
	want := []byte(noise(bigSize))
	for end := bigSize; end > 0; {
		begin := (end - 1) &^ 4095
		if !bytes.Equal(data[begin:end], want[begin:end]) {
			return fmt.Errorf("page at %d differs", begin)
		}
		end = begin
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EACCES {
		return fmt.Errorf("a writable shared mapping: %v, want EACCES", err)
	}
	return nil
}

// holdRole keeps args[0] open until its input ends.
func holdRole(args []string) error {
	if _, err := unix.Open(args[0], unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	fmt.Println("ok")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// mappedTo is the user that root is in the user namespace of userNamespace.
const mappedTo = 100000

// userNamespace is a descriptor of a user namespace, which lives as long as the test.
func userNamespace(t testing.TB) int {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: mappedTo, Size: 65536}}
	p := prepare(t, 0, "hold", "/")
	p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	p.begin(t)
	p.ready(t)
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", p.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	return ns
}
