# The layer that changes what the layers below it gave, and adds what is rare.

# Removed: a file, a directory with all below it, a symbolic link (not its target).
rm /etc/issue.net
rm -r /usr/share/go-1.19/test/fixedbugs
rm /usr/bin/which
# Removed and made again: what was below is gone.
rm -r /usr/share/doc/python3
mkdir /usr/share/doc/python3
echo again >/usr/share/doc/python3/again

# Replaced: content, and content of the same size and time.
echo 'Debian, changed' >/etc/issue
touch -r /etc/debian_version /tmp/stamp
tr 0-9 1-90 </etc/debian_version >/tmp/version
cat /tmp/version >/etc/debian_version
touch -r /tmp/stamp /etc/debian_version
rm /tmp/version /tmp/stamp

# Types changed: what was a file or a symbolic link.
cd /opt/types
rm file-to-* link-to-*
echo was a link >link-to-file
for from in file link; do mkdir $from-to-directory; echo "was a $from" >$from-to-directory/inner; done
ln -s /usr/lib file-to-link
cd /

# Modes: setuid, setgid, sticky, none at all, one of a directory.
mkdir /opt/modes
for mode in 0000 0400 1777 2755 4755 6711 7777; do
	echo $mode >/opt/modes/$mode
	chmod $mode /opt/modes/$mode
done
mkdir -m 3775 /opt/modes/dir
chmod 0700 /usr/share/go-1.19/src/io
chmod u+s /usr/bin/md5sum
chown 1234:4321 /opt/modes/0400 /usr/share/go-1.19/src/io
chown -h 65534:65534 /usr/bin/awk
chown 4294967294:4294967294 /opt/modes/4755

# Hard links: to new files, to files of lower layers, of a link, of a FIFO.
mkdir /opt/links
echo linked >/opt/links/a
ln /opt/links/a /opt/links/b
ln /opt/links/a /opt/modes/c
ln /usr/bin/sha256sum /opt/links/sha256sum
ln /usr/bin/sha256sum /usr/bin/sha256sum.too
ln -s nowhere /opt/links/symlink
ln -P /opt/links/symlink /opt/links/symlink2
mkfifo -m 620 /opt/links/fifo
ln /opt/links/fifo /opt/links/fifo2

# Devices.
mkdir /opt/dev
mknod -m 640 /opt/dev/disk b 259 1048575
mknod -m 666 /opt/dev/null c 1 3
mknod -m 600 /opt/dev/wide c 4095 70000

# Capabilities and other attributes.
cp /usr/bin/cat /opt/ping
setcap cap_net_raw,cap_net_admin+ep /opt/ping
setcap cap_net_bind_service=+eip /usr/bin/sha1sum
setfattr -n user.text -v 'plain' /opt/links/a
setfattr -n user.binary -v 0x00ff0a3d /opt/dev

# Names and times.
python3 - <<'PYTHON'
import os
os.makedirs(b"/opt/names", exist_ok=True)
names = ["n" * 255, "Größe", "日本語.txt", "🦫", "e\u0301 or \u00e9", "new\nline", "tab\tquote\"back\\slash",
         " leading", "trailing ", "-dash", "*glob?[x]", "..three", "...", "a=b", "%41", "#", "wh.not", ".whiteout"]
for name in names:
    with open("/opt/names/" + name, "w") as f:
        f.write(name)
with open(b"/opt/names/latin1-\xe9\xff", "w") as f:
    f.write("not UTF-8")
deep = "/opt/names/" + "/".join(["d" * 120] * 8)
os.makedirs(deep)
with open(deep + "/" + "f" * 200, "w") as f:
    f.write("deep")
os.symlink("t" * 1000, "/opt/names/to far away")
os.symlink("/absolute/../to/./where", "/opt/names/to \xdcber")
with open("/opt/sparse", "wb") as f:
    f.truncate(64 << 20)
    f.seek(10 << 20)
    f.write(b"island" * 1000)
    f.seek((64 << 20) - 3)
    f.write(b"end")
with open("/opt/random", "wb") as f:
    f.write(os.urandom(5 << 20))
open("/opt/empty", "w").close()
for name, sec in ("epoch", 0), ("y2001", 1_000_000_000), ("y2038", 2**31 + 5):
    open("/opt/" + name, "w").close()
    os.utime("/opt/" + name, ns=(sec * 10**9 + 123456789, sec * 10**9 + 123456789))
PYTHON
