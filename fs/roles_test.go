package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
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
	s, err := Mount(args[0], tree, options(args[1:]))
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

func options(names []string) *Options {
	has := func(name string) bool { return slices.Contains(names, name) }
	return &Options{
		Name: "sample, as \\ itself", AllowOther: has("allow_other"), Suid: has("suid"), Dev: has("dev"), NoExec: has("noexec"),
	}
}

// checkRole checks what serveRole would find.
func checkRole(args []string) error {
	_, err := Check(args[0], options(args[1:]))
	return err
}

// namespaceRole mounts the sample at args[0] as root of whatever namespaces it is in, with a look from inside.
func namespaceRole(args []string) error {
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	s, err := Mount(args[0], tree, nil)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(s.Dir()+"/etc/hostname", &st); err != nil || st.Uid != 0 || st.Gid != 0 {
		return fmt.Errorf("owner %d:%d, %w", st.Uid, st.Gid, err)
	}
	if got, err := readFile(s.Dir()+"/big", bigSize); err != nil || string(got) != noise(bigSize) {
		return fmt.Errorf("read %d bytes that differ, %w", len(got), err)
	}
	if err := s.Unmount(); err != nil {
		return err
	}
	s.Wait()
	return nil
}

// uncapableRole is namespaceRole without the capability to mount.
func uncapableRole(args []string) error {
	runtime.LockOSThread() // capabilities are a thread's
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	data[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	tree, err := sampleTree()
	if err != nil {
		return err
	}
	if _, err := thisHost().attachDirectly(args[0], &readOnlyMount, new(Options)); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount(2): %v, want EPERM", err)
	}
	if _, err := Mount(args[0], tree, nil); err != nil {
		return err
	}
	return compare(args[0], tree)
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

// namespaces starts a process as root of new namespaces.
func namespaces(flags uintptr) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: mappedTo, Size: 65536}}
	return &syscall.SysProcAttr{
		Cloneflags: flags, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
}

// userNamespace is a descriptor of a user namespace, which lives as long as the test.
func userNamespace(t testing.TB) int {
	t.Helper()
	p := prepare(t, 0, "hold", "/")
	p.SysProcAttr = namespaces(syscall.CLONE_NEWUSER)
	p.begin(t)
	p.ready(t)
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", p.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	return ns
}
