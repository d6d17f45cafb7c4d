# The layer that puts something else in the place of directories. (umoci writes
# whiteouts below what has replaced a directory, which containerd refuses: its
# image of this layer is one of its own.)
cd /opt/types
rm -r dir-to-file dir-to-link
echo was a directory >dir-to-file
ln -s /usr/lib dir-to-link
rm -r /usr/share/go-1.19/src/net
ln -s /usr/lib /usr/share/go-1.19/src/net
# An opaque directory: new, where there was one.
rm -r /usr/share/go-1.19/src/os
mkdir /usr/share/go-1.19/src/os
echo package os >/usr/share/go-1.19/src/os/new.go
